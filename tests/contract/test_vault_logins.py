"""Response-wrapped secret_ids on a real OpenBao, and the login by an AWS identity."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import AppRoleAuth, AwsAuth
from rekeyd.core.model import VaultAbsent, VaultUnreadable
from rekeyd.demo.emulator import HUB, EmulatedAws
from rekeyd.demo.emulator.faults import Drop
from rekeyd.demo.emulator.vault_proxy import VaultError, VaultProxy
from rekeyd.demo.openbao import AppRole, OpenBaoServer
from rekeyd.errors import InterceptedError, RefusedError, TemporaryError
from tests.contract.vault_aws import AwsMethod
from tests.contract.vault_stand import OpenBaoStand
from tests.secret_registry import remember, write_secret

pytestmark = pytest.mark.slow

POLICY = 'path "MOUNT/data/*" { capabilities = ["create", "read", "update"] }'
LOOKUP = "POST sys/wrapping/lookup"
UNWRAP = "POST sys/wrapping/unwrap"
LOGIN = "POST auth/*/login"


class Wrapped:
    """An AppRole whose secret_id arrives wrapped, behind a proxy."""

    def __init__(self, server: OpenBaoServer, mount: str, proxy: VaultProxy, folder: Path) -> None:
        self.server, self.proxy, self.folder = server, proxy, folder
        self.stand = OpenBaoStand(server, mount, folder)
        self.name = f"wrapped-{mount}"
        server.write_policy(self.name, POLICY.replace("MOUNT", mount))
        self.role: AppRole = server.create_app_role(self.name, [self.name], token_ttl="1h")
        self.file = write_secret(folder / "wrapped", self.wrapping_token(self.name))
        self.vault = self.adapter(self.name)
        self.place = self.stand.place_at("aws/1/ci", address=proxy.address)

    def adapter(self, role: str | None) -> KvVault:
        auth = AppRoleAuth(role_id=self.role.role_id, secret_id_file=self.file, wrapped=True, role=role)
        return KvVault(replace(self.stand.settings, address=self.proxy.address, auth=auth), self.stand.clock)

    def wrapping_token(self, role: str) -> str:
        with self.server.client() as client:
            made = client.auth.approle.generate_secret_id(role, wrap_ttl="5m")
        return remember(str(made["wrap_info"]["token"]))

    def unwrapped_by_somebody(self) -> None:
        token = self.file.read_text().strip()
        with self.server.client(token) as client:
            remember(client.sys.unwrap()["data"]["secret_id"])

    def count(self, op: str) -> int:
        return len(self.proxy.calls(op))


@pytest.fixture
def wrapped(openbao: OpenBaoServer, kv_mount: str, tmp_path: Path) -> Iterator[Wrapped]:
    with VaultProxy(openbao.address) as proxy:
        made = Wrapped(openbao, kv_mount, proxy, tmp_path)
        yield made
        made.vault.close()


def test_a_wrapped_secret_id_is_opened_once_and_kept_for_later_logins(wrapped: Wrapped) -> None:
    assert wrapped.vault.current(wrapped.place) == VaultAbsent(0)
    with wrapped.server.client() as client:
        client.adapter.post("/v1/sys/leases/revoke-prefix/auth/approle/login")
    wrapped.stand.clock.advance(wrapped.stand.settings.timeout * 6)
    assert wrapped.vault.current(wrapped.place) == VaultAbsent(0)
    assert (wrapped.count(UNWRAP), wrapped.count(LOGIN)) == (1, 2)


def test_the_name_of_the_role_may_be_left_open(wrapped: Wrapped) -> None:
    vault = wrapped.adapter(None)
    assert vault.current(wrapped.place) == VaultAbsent(0)
    vault.close()


def test_a_wrapped_secret_id_that_somebody_opened_is_said_to_be_intercepted(wrapped: Wrapped) -> None:
    wrapped.unwrapped_by_somebody()
    with pytest.raises(InterceptedError, match="was opened already, has expired, or never was one") as caught:
        wrapped.vault.read_mark()
    assert "destroy its secret_id" in str(caught.value.hint)
    assert (wrapped.count(UNWRAP), wrapped.count(LOGIN)) == (0, 0)
    wrapped.vault.maintain()
    assert isinstance(wrapped.vault.token_problem, InterceptedError)
    assert wrapped.count(LOOKUP) == 1, "asked once for one wrapping token"


def test_something_else_wrapped_in_its_place_is_not_opened(wrapped: Wrapped) -> None:
    wrapped.server.create_app_role("another", [wrapped.name])
    write_secret(wrapped.file, wrapped.wrapping_token("another"))
    with pytest.raises(InterceptedError, match="was made at auth/approle/role/another/secret-id"):
        wrapped.vault.read_mark()
    with wrapped.server.client() as client:
        made = client.adapter.post("/v1/sys/wrapping/wrap", json={"secret_id": "x"}, headers={"X-Vault-Wrap-TTL": "5m"})
        token = remember(made["wrap_info"]["token"])
    write_secret(wrapped.file, token)
    with pytest.raises(InterceptedError, match="was made at sys/wrapping/wrap"):
        wrapped.adapter(None).read_mark()
    assert wrapped.count(UNWRAP) == 0


def test_a_new_wrapping_token_is_tried_at_once_after_an_interception(wrapped: Wrapped) -> None:
    wrapped.unwrapped_by_somebody()
    assert isinstance(wrapped.vault.current(wrapped.place), VaultUnreadable)
    write_secret(wrapped.file, wrapped.wrapping_token(wrapped.name))
    assert wrapped.vault.current(wrapped.place) == VaultAbsent(0)
    wrapped.vault.maintain()
    assert wrapped.vault.token_problem is None


def test_an_unwrap_whose_answer_was_lost_is_no_interception(wrapped: Wrapped) -> None:
    wrapped.proxy.fault(UNWRAP, when="after", do=Drop())
    with pytest.raises(RefusedError, match="was opened by rekeyd, and the answer was lost") as caught:
        wrapped.vault.read_mark()
    assert not isinstance(caught.value, InterceptedError)
    assert (wrapped.count(UNWRAP), wrapped.count(LOGIN)) == (1, 0)


def test_an_unwrap_that_never_arrived_is_sent_again(wrapped: Wrapped) -> None:
    wrapped.proxy.fault(UNWRAP, when="before", do=Drop())
    assert wrapped.vault.current(wrapped.place) == VaultAbsent(0)
    assert wrapped.count(UNWRAP) == 2


@pytest.mark.parametrize("op", [LOOKUP, UNWRAP])
def test_a_sealed_vault_spoils_no_wrapping_token(wrapped: Wrapped, op: str) -> None:
    wrapped.proxy.fault(op, do=VaultError(503, ("Vault is sealed",)))
    wrapped.vault.maintain()
    assert isinstance(wrapped.vault.token_problem, TemporaryError)
    assert wrapped.vault.current(wrapped.place) == VaultAbsent(0)


# --- aws ---


REGION = "eu-central-1"


@pytest.fixture
def method(openbao: OpenBaoServer, kv_mount: str) -> Iterator[AwsMethod]:
    openbao.write_policy(f"aws-{kv_mount}", POLICY.replace("MOUNT", kv_mount))
    with (
        EmulatedAws(on_secret=remember) as aws,
        AwsMethod(openbao, aws, region=REGION, server_id="vault.example", policy=f"aws-{kv_mount}") as made,
    ):
        yield made


@pytest.fixture
def stand(method: AwsMethod, kv_mount: str, tmp_path: Path) -> OpenBaoStand:
    return OpenBaoStand(method.bao, kv_mount, tmp_path, address=method.address)


def adapter(stand: OpenBaoStand, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], **auth: Any) -> KvVault:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, env[name]) if name in env else monkeypatch.delenv(name, raising=False)
    settings = {"role": "rekeyd", "region": REGION, "header_value": "vault.example"} | auth
    return KvVault(replace(stand.settings, auth=AwsAuth(**settings)), stand.clock)


@pytest.mark.parametrize("as_role", [False, True], ids=["a user", "a role with a session token"])
def test_an_aws_identity_logs_in_by_a_signed_request(
    method: AwsMethod, stand: OpenBaoStand, monkeypatch: pytest.MonkeyPatch, as_role: bool
) -> None:
    env = method.aws.daemon_environment(as_role=as_role)
    method.bound_arn = method.aws.client_with(
        "sts", env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], token=env.get("AWS_SESSION_TOKEN")
    ).get_caller_identity()["Arn"]
    vault = adapter(stand, monkeypatch, env)
    assert vault.current(stand.place) == VaultAbsent(0)
    assert (method.roles, method.refusals) == (["rekeyd"], [])
    vault.close()


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "another Region than Vault's": ({"region": "us-west-2"}, "signed for sts.us-west-2.amazonaws.com"),
    "no server id": ({"header_value": ""}, "no server id"),
    "another server's id": ({"header_value": "staging.example"}, "no server id"),
}


@pytest.mark.parametrize("case", WRONG.items(), ids=lambda case: case[0])
def test_a_login_signed_for_another_vault_is_refused(
    method: AwsMethod, stand: OpenBaoStand, monkeypatch: pytest.MonkeyPatch, case: tuple[str, Any]
) -> None:
    auth, why = case[1]
    vault = adapter(stand, monkeypatch, method.aws.daemon_environment(), **auth)
    with pytest.raises(RefusedError, match=r"the login to Vault by aws was refused \(400\)"):
        vault.read_mark()
    assert method.refusals == [why]


def test_a_wrong_secret_does_not_log_in(
    method: AwsMethod, stand: OpenBaoStand, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = method.aws.daemon_environment()
    method.bound_arn = f"arn:aws:iam::{HUB}:user/rekeyd"
    vault = adapter(stand, monkeypatch, {**env, "AWS_SECRET_ACCESS_KEY": "wrong" * 8})
    with pytest.raises(RefusedError, match="the login to Vault by aws was refused"):
        vault.read_mark()
    assert method.refusals == ["None is not bound"]


def test_without_aws_credentials_the_login_says_so(
    method: AwsMethod, stand: OpenBaoStand, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = adapter(stand, monkeypatch, {})
    with pytest.raises(TemporaryError, match="there are no AWS credentials to log in to Vault with"):
        vault.read_mark()
    assert method.refusals == []
