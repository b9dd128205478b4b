"""Whatever answers a login to Vault, sts:AssumeRole, Organizations or CloudTrail: the same as in test_bad_input."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_session import AccountSettings, AwsSettings, OrganizationSettings
from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import AppRoleAuth, JwtAuth, KubernetesAuth, LoginAuth, VaultSettings
from rekeyd.core.model import AccountId, VaultHeld, VaultUnreadable
from rekeyd.errors import Error
from tests.bad_server import MANY, OWN_KEY, Server, a_server, bent, json_bodies, own_credentials, within_time
from tests.contract.vault_stand import OLD, SteadyClock
from tests.rig import ACCOUNT
from tests.secret_registry import remember, write_secret
from tests.unit.test_bad_input import (
    DATA,
    IDENTITY,
    INTENT,
    KEY_ID,
    RESULTS,
    aws_statuses,
    bent_xml,
    place,
    vault_statuses,
    xml,
)
from tests.unit.test_bad_input import KNOWN as VAULT_KNOWN

# --- Vault ------------------------------------------------------------------------------------------------------------

TOKEN = remember("hvs.aTokenThatNoAnswerMayLeaveBehind0123")
AUTH: dict[str, Any] = {
    "client_token": TOKEN,
    "accessor": "a",
    "policies": ["rekeyd"],
    "lease_duration": 3600,
    "renewable": True,
    "num_uses": 0,
}
GRANTED = {"request_id": "1", "lease_id": "", "data": None, "auth": AUTH}
LOGINS: dict[str, Callable[[Path], LoginAuth]] = {
    "approle": lambda file: AppRoleAuth(role_id="role", secret_id_file=file),
    "kubernetes": lambda file: KubernetesAuth(role="role", jwt_file=file),
    "jwt": lambda file: JwtAuth(role="role", jwt_file=file),
}


@pytest.fixture(scope="module")
def vault_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    with a_server() as server:
        mounts = "sys/internal/ui/mounts/"
        server.known = {
            "/v1/secret/data/": json.dumps(DATA).encode(),
            mounts: json.dumps(VAULT_KNOWN[mounts]).encode(),
        }
        yield server, write_secret(tmp_path_factory.mktemp("vault") / "shown", "whatRekeydShowsAtALogin0123")


def _logging_in(stand: tuple[Server, Path], name: str) -> tuple[KvVault, SteadyClock]:
    server, file = stand
    clock = SteadyClock()
    settings = VaultSettings(address=server.address, auth=LOGINS[name](file), state_path="rekeyd/default")
    return KvVault(settings, clock), clock


@pytest.mark.parametrize("name", LOGINS)
@given(status=vault_statuses, body=json_bodies(GRANTED, GRANTED), cut=st.booleans())
@MANY
def test_a_login_gives_a_token_or_an_error_of_ours(
    vault_server: tuple[Server, Path], name: str, status: int, body: bytes, *, cut: bool
) -> None:
    server, _ = vault_server
    server.answers(status, "application/json", body, cut=cut)
    vault, clock = _logging_in(vault_server, name)
    try:
        with within_time():
            seen = vault.current(place(server.address))
            assert vault.maintain() > clock.now()
            vault.health()
    except Error:
        return
    finally:
        vault.close()
    if cut or status >= 300:
        assert not isinstance(seen, VaultHeld), "somebody logged in by an answer that is none"


@pytest.mark.parametrize("name", LOGINS)
def test_a_good_answer_to_a_login_is_still_understood(vault_server: tuple[Server, Path], name: str) -> None:
    server, _ = vault_server
    server.answers(200, "application/json", json.dumps(GRANTED).encode())
    vault, _ = _logging_in(vault_server, name)
    seen = vault.current(place(server.address))
    vault.close()
    assert isinstance(seen, VaultHeld)
    assert seen.access_key_id == OLD


@pytest.mark.parametrize(
    "lease", ["abc", 1e300, 10**20, -5, [1], "9" * 5000, float("nan")], ids=lambda lease: str(lease)[:9]
)
def test_a_login_for_a_time_that_is_none_is_an_error_of_ours(vault_server: tuple[Server, Path], lease: Any) -> None:
    server, _ = vault_server
    granted = GRANTED | {"auth": {**AUTH, "lease_duration": lease}}
    server.answers(200, "application/json", json.dumps(granted).encode())
    vault, _ = _logging_in(vault_server, "jwt")
    assert isinstance(vault.current(place(server.address)), VaultUnreadable)
    vault.maintain()
    vault.close()


# --- AWS --------------------------------------------------------------------------------------------------------------

MEMBER = AccountId("444455556666")
MEMBERS = {
    "Accounts": [
        {"Id": MEMBER, "Name": "ci", "Email": "ci@example.com", "State": "ACTIVE", "JoinedTimestamp": 1.7e9},
        {"Id": "777788889999", "Name": "old", "State": "CLOSED"},
    ]
}
MADE = {
    "userAgent": "Boto3/1 rekeyd-op/op1",
    "responseElements": {"accessKey": {"accessKeyId": KEY_ID, "userName": "ci", "status": "Active"}},
}


def _found(event: Any) -> dict[str, Any]:
    text = event if isinstance(event, str) else json.dumps(event)
    return {
        "Events": [{"EventId": "1", "EventName": "CreateAccessKey", "EventTime": 1.7e9, "CloudTrailEvent": text}],
    }


trail_bodies = st.one_of(
    json_bodies(_found(MADE)), bent(MADE).map(lambda event: json.dumps(_found(event)).encode()), st.just(b"{}")
)
SESSION = (
    "<Credentials><AccessKeyId>ASIASESSIONSESSIONSE</AccessKeyId>"
    f"<SecretAccessKey>{remember('theSecretOfASessionThatNobodySees0123456')}</SecretAccessKey>"
    "<SessionToken>theTokenOfASession</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
    "<AssumedRoleUser><AssumedRoleId>AROA:rekeyd</AssumedRoleId>"
    "<Arn>arn:aws:sts::111122223333:assumed-role/rekeyd/rekeyd</Arn></AssumedRoleUser>"
)
KNOWN = {
    "Action=GetCallerIdentity": IDENTITY,
    "Action=GetUser": xml("GetUser", RESULTS["GetUser"]).encode(),
}


@pytest.fixture(scope="module")
def aws_server() -> Iterator[Server]:
    with a_server() as server, own_credentials():
        server.known = KNOWN
        yield server


def _cloud(server: Server, **settings: Any) -> AwsCloud:
    made = AwsSettings(region="us-east-1", endpoint_url=server.address, **settings)
    return AwsCloud(made, SteadyClock(), instance="bad")


@pytest.fixture(scope="module")
def own_account(aws_server: Server) -> AwsCloud:
    return _cloud(aws_server)


@pytest.fixture(scope="module")
def organization(aws_server: Server) -> AwsCloud:
    return _cloud(aws_server, organization=OrganizationSettings(role_name="rekeyd"))


@pytest.fixture(scope="module")
def by_role(aws_server: Server) -> AwsCloud:
    role = f"arn:aws:iam::{ACCOUNT}:role/rekeyd"
    return _cloud(aws_server, accounts=(AccountSettings(id=ACCOUNT, role_arn=role),))


@given(status=aws_statuses, body=trail_bodies)
@MANY
def test_cloudtrail_tells_or_is_none(aws_server: Server, own_account: AwsCloud, status: int, body: bytes) -> None:
    aws_server.answers(status, "application/x-amz-json-1.1", body)
    with within_time():
        made = own_account.iam(ACCOUNT).who_created([INTENT], "ci")
        try:
            own_account.iam(ACCOUNT).root_used_at(since=datetime(2026, 1, 1, tzinfo=UTC))
        except Error:
            assert made is None or status < 300
    if status >= 300:
        assert made is None, "an error was taken for no event"
    for operation in (made or {}).values():
        assert operation in (None, "op1")


@given(status=aws_statuses, body=json_bodies(MEMBERS, MEMBERS))
@MANY
def test_the_organization_is_listed_or_an_error_of_ours(
    aws_server: Server, organization: AwsCloud, status: int, body: bytes
) -> None:
    aws_server.answers(status, "application/x-amz-json-1.1", body)
    try:
        with within_time():
            listed = organization.accounts()
    except Error:
        return
    assert status < 300, "an error was taken for an organization"
    for account_id in listed.watched:
        assert isinstance(account_id, str)
        assert account_id, "an account without a number was taken for one"


def test_a_good_list_of_the_organization_is_still_understood(aws_server: Server, organization: AwsCloud) -> None:
    aws_server.answers(200, "application/x-amz-json-1.1", json.dumps(MEMBERS).encode())
    assert organization.accounts().watched == (MEMBER,)
    assert organization.names == {MEMBER: "ci", "777788889999": "old"}


@pytest.mark.parametrize("listing", ["who_created", "accounts"])
def test_a_list_whose_next_page_is_the_same_again_ends(
    aws_server: Server, organization: AwsCloud, own_account: AwsCloud, listing: str
) -> None:
    again = {"NextToken": "more"}
    aws_server.answers(200, "application/x-amz-json-1.1", json.dumps(_found(MADE) | MEMBERS | again).encode())
    with within_time():
        if listing == "who_created":
            assert own_account.iam(ACCOUNT).who_created([INTENT], "ci") is None
        else:
            with pytest.raises(Error, match="ListAccounts"):
                organization.accounts()


@given(status=aws_statuses, body=bent_xml("AssumeRole", SESSION))
@MANY
def test_a_role_is_assumed_or_nothing_is_asked(aws_server: Server, by_role: AwsCloud, status: int, body: bytes) -> None:
    aws_server.answers(status, "text/xml", body)
    aws_server.sent.clear()
    by_role.sessions.renew()
    try:
        with within_time():
            user = by_role.iam(ACCOUNT).get_user("ci")
    except Error:
        user = None
    if user is not None:
        assert status < 300, "an error was taken for a session"
    for asked, signer in aws_server.sent:
        assert "Action=AssumeRole" in asked or OWN_KEY not in signer, "rekeyd's own credentials took the role's place"
