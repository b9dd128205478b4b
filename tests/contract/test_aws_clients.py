"""Whose credentials, which endpoint, which Region, and what travels with a request."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_session import AccountSettings, AwsSessions, AwsSettings, OrganizationSettings
from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.journal import open_journal
from rekeyd.app import account_names
from rekeyd.core.model import AccessKeyId, AccountId, KeyStatus, Proof
from rekeyd.core.secret import Secret
from rekeyd.demo.emulator import Delays, Drop, EmulatedAws, ErrorCode, Hold
from rekeyd.errors import AccessDeniedError, ConfigError, NotFoundError, RefusedError, TemporaryError
from rekeyd.ports import AccountStatus, Pair
from tests.contract.aws_sides import ACCOUNT, MachineClock, emulated

MEMBER = AccountId("444455556666")
OTHER = AccountId("777788889999")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedAws]:
    with emulated(monkeypatch, page_size=2) as aws:
        yield aws


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are none, for what asks nobody."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAXXXXXXXXXXXXXXXX")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not a key of anybody")


def cloud_of(*accounts: AccountSettings, organization: OrganizationSettings | None = None) -> AwsCloud:
    settings = AwsSettings(region="us-east-1", accounts=accounts, organization=organization)
    return AwsCloud(settings, MachineClock(), instance="prod eu/1")


def passes() -> None:
    """A guard of a holder that still holds."""


# roles


def test_an_account_is_entered_by_its_role_once_for_many_calls(aws: EmulatedAws, tmp_path: Path) -> None:
    external_id = tmp_path / "external-id"
    external_id.write_text("only-we-two-know\n")
    role_arn = aws.add_role(MEMBER, "rekeyd", external_id="only-we-two-know")
    aws.create_user(MEMBER, "ci", key_age=timedelta(days=1))
    cloud = cloud_of(AccountSettings(id=MEMBER, role_arn=role_arn, external_id_file=external_id))
    caller = cloud.sts.caller_identity(MEMBER)
    assert caller.account_id == MEMBER
    assert caller.arn.endswith("assumed-role/rekeyd/rekeyd-prod-eu-1")
    for _ in range(3):
        assert [user.user_name for user in cloud.iam(MEMBER).list_users()] == ["ci"]
    cloud.iam(MEMBER).create_access_key("ci", operation_id="op-1", guard=passes)
    assert len(aws.keys(MEMBER, "ci")) == 2
    assert len(aws.calls("AssumeRole")) == 1
    assert cloud.accounts().watched == (MEMBER,)
    assert cloud.sts.credentials_expire_at(MEMBER) is None


def test_a_role_that_refuses_is_named_and_never_replaced_by_the_own_credentials(
    aws: EmulatedAws, tmp_path: Path
) -> None:
    external_id = tmp_path / "external-id"
    external_id.write_text("a wrong one")
    role_arn = aws.add_role(MEMBER, "rekeyd", external_id="only-we-two-know")
    cloud = cloud_of(AccountSettings(id=MEMBER, role_arn=role_arn, external_id_file=external_id))
    with pytest.raises(AccessDeniedError, match=f"sts:AssumeRole for {MEMBER} was refused: AccessDenied"):
        cloud.iam(MEMBER).list_users()
    assert aws.calls("GetAccountAuthorizationDetails") == []


def test_an_external_id_is_read_anew_for_every_session(aws: EmulatedAws, tmp_path: Path) -> None:
    external_id = tmp_path / "external-id"
    role_arn = aws.add_role(MEMBER, "rekeyd", external_id="only-we-two-know")
    cloud = cloud_of(AccountSettings(id=MEMBER, role_arn=role_arn, external_id_file=external_id))
    with pytest.raises(ConfigError, match=r"external_id_file .* cannot be read"):
        cloud.iam(MEMBER).list_users()
    external_id.write_text("")
    with pytest.raises(ConfigError, match="is empty"):
        cloud.iam(MEMBER).list_users()
    external_id.write_text("only-we-two-know")
    assert cloud.iam(MEMBER).list_users() == ()


def test_a_change_whose_credentials_could_not_be_had_was_not_made(aws: EmulatedAws) -> None:
    # The lost answer is AssumeRole's: it must not look like one of CreateAccessKey.
    role_arn = aws.add_role(MEMBER, "rekeyd")
    aws.create_user(MEMBER, "ci", key_age=timedelta(days=1))
    cloud = cloud_of(AccountSettings(id=MEMBER, role_arn=role_arn))
    aws.fault("AssumeRole", when="after", do=Drop(), forever=True)
    with pytest.raises(TemporaryError, match=f"sts:AssumeRole for {MEMBER} got no usable answer"):
        cloud.iam(MEMBER).create_access_key("ci", operation_id="op-1", guard=passes)
    assert aws.calls("CreateAccessKey") == []


def test_an_account_without_a_role_uses_the_own_credentials(aws: EmulatedAws) -> None:
    cloud = cloud_of(AccountSettings(id=ACCOUNT))
    assert cloud.sts.caller_identity(ACCOUNT).account_id == ACCOUNT
    assert aws.calls("AssumeRole") == []


def test_an_account_that_is_not_configured_cannot_be_entered(aws: EmulatedAws) -> None:
    for cloud in (cloud_of(), cloud_of(AccountSettings(id=MEMBER, role_arn="arn:aws:iam::444455556666:role/rekeyd"))):
        with pytest.raises(NotFoundError, match=OTHER):
            cloud.iam(OTHER)


# the organization


def test_the_organization_is_listed_through_empty_pages_and_by_state(aws: EmulatedAws) -> None:
    organization = aws.create_organization(
        {MEMBER: "member", OTHER: "other", "000000000042": "gone"}, empty_first_page=True
    )
    organization.members["000000000042"].state = "SUSPENDED"
    aws.add_role(MEMBER, "rekeyd")
    cloud = cloud_of(organization=OrganizationSettings(role_name="rekeyd", exclude_accounts=frozenset({OTHER})))
    accounts = cloud.accounts()
    assert set(accounts.watched) == {ACCOUNT, MEMBER}
    assert accounts.unwatched == {
        OTHER: "excluded by aws.organization.exclude_accounts",
        "000000000042": "its state in the organization is SUSPENDED",
    }
    assert cloud.sts.caller_identity(MEMBER).arn.startswith(f"arn:aws:sts::{MEMBER}:assumed-role/rekeyd/")
    # The management account has no such role.
    assert cloud.sts.caller_identity(ACCOUNT).arn.endswith(":user/rekeyd")
    with pytest.raises(NotFoundError, match=OTHER):
        cloud.iam(OTHER)


def test_an_account_without_an_alias_goes_by_its_name_in_the_organization(aws: EmulatedAws) -> None:
    aws.create_organization({MEMBER: "Payments (prod)", OTHER: "other"})
    cloud = cloud_of(organization=OrganizationSettings(role_name="rekeyd", exclude_accounts=frozenset({OTHER})))
    journal = open_journal("sqlite://", instance="test", clock=SystemClock())
    assert account_names(cloud, journal) == {}
    cloud.accounts()
    journal.save_account(status_of(OTHER, alias="shop"))
    journal.save_account(status_of(MEMBER, alias=None))
    names = account_names(cloud, journal)
    assert (names[AccountId(MEMBER)], names[AccountId(OTHER)]) == ("Payments (prod)", "shop")
    journal.close()


def status_of(account_id: str, *, alias: str | None) -> AccountStatus:
    return AccountStatus(
        account_id=AccountId(account_id),
        alias=alias,
        state="ok",
        message="",
        last_pass_at=None,
        last_drift_at=None,
        principals=0,
        due=0,
    )


def test_a_configured_account_wins_over_the_organizations(aws: EmulatedAws) -> None:
    aws.create_organization({MEMBER: "member"})
    special = aws.add_role(MEMBER, "special")
    cloud = cloud_of(
        AccountSettings(id=MEMBER, role_arn=special), organization=OrganizationSettings(role_name="rekeyd")
    )
    assert sorted(cloud.accounts().watched) == [ACCOUNT, MEMBER]
    assert "assumed-role/special/" in cloud.sts.caller_identity(MEMBER).arn


def test_no_organization_is_refused_not_empty(aws: EmulatedAws) -> None:
    with pytest.raises(RefusedError, match="organizations:ListAccounts"):
        cloud_of(organization=OrganizationSettings(role_name="rekeyd")).accounts()


# what travels


def test_the_operation_id_is_the_last_word_of_the_user_agent_of_that_request_only(aws: EmulatedAws) -> None:
    aws.create_user(ACCOUNT, "ci", key_age=timedelta(days=1))
    iam = cloud_of().iam(ACCOUNT)
    made = iam.create_access_key("ci", operation_id="op-1", guard=passes)
    iam.delete_access_key("ci", made.pair.access_key_id, guard=passes)
    iam.create_access_key("ci", operation_id="op-2", guard=passes)
    assert [seen.user_agent.split()[-1] for seen in aws.calls("CreateAccessKey")] == [
        "rekeyd-op/op-1",
        "rekeyd-op/op-2",
    ]
    (deletion,) = aws.calls("DeleteAccessKey")
    assert "rekeyd-op/" not in deletion.user_agent
    assert "rekeyd/" in deletion.user_agent
    assert all(seen.user_name == "ci" for seen in (*aws.calls("CreateAccessKey"), deletion))


def test_an_operation_id_that_breaks_the_user_agent_is_refused(aws: EmulatedAws) -> None:
    with pytest.raises(ValueError, match="operation id"):
        cloud_of().iam(ACCOUNT).create_access_key("ci", operation_id="a b\r\nX: y", guard=passes)
    assert aws.calls("CreateAccessKey") == []


def test_the_guard_of_one_thread_is_not_that_of_another(aws: EmulatedAws) -> None:
    for name in ("a", "b"):
        aws.create_user(ACCOUNT, name, key_age=timedelta(days=1))
    iam = cloud_of().iam(ACCOUNT)
    rule = aws.fault("CreateAccessKey", do=Hold(), user="a")
    first = threading.Thread(target=iam.create_access_key, args=["a"], kwargs={"operation_id": "op-a", "guard": passes})
    first.start()
    assert rule.hit.wait(10)
    iam.create_access_key("b", operation_id="op-b", guard=passes)
    rule.release.set()
    first.join(10)
    carried = {seen.user_name: seen.user_agent.split()[-1] for seen in aws.calls("CreateAccessKey")}
    assert carried == {"a": "rekeyd-op/op-a", "b": "rekeyd-op/op-b"}


def test_a_change_never_rides_on_a_connection_kept_from_the_last_one(nobody: None) -> None:
    # A server that closes idle connections may do so just as the next change is sent on it.
    connections: list[list[int]] = []

    class Kept(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.seen: list[int] = []
            connections.append(self.seen)

        def do_POST(self) -> None:
            self.seen.append(len(self.rfile.read(int(self.headers["Content-Length"]))))
            if len(self.seen) > 1:
                self.close_connection = True
                return
            body = (
                b"<UpdateAccessKeyResponse><ResponseMetadata><RequestId>1</RequestId>"
                b"</ResponseMetadata></UpdateAccessKeyResponse>"
            )
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Kept) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        settings = AwsSettings(
            region="us-east-1",
            endpoint_url=f"http://127.0.0.1:{server.server_port}",
            accounts=(AccountSettings(id=ACCOUNT),),
        )
        iam = AwsCloud(settings, MachineClock(), instance="contract").iam(ACCOUNT)
        for _ in range(3):
            iam.update_access_key("ci", AccessKeyId("AKIAXXXXXXXXXXXXXXXX"), KeyStatus.INACTIVE, guard=passes)
        server.shutdown()
        serving.join()
    assert [len(requests) for requests in connections] == [1, 1, 1]


# credentials


def test_refused_credentials_are_looked_up_anew(aws: EmulatedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    iam = cloud_of().iam(ACCOUNT)
    iam.account_summary()
    newer = aws.daemon_environment(user_name="newer")
    for name, value in newer.items():
        monkeypatch.setenv(name, value)
    aws.fault("GetAccountSummary", do=ErrorCode("ExpiredToken"))
    with pytest.raises(TemporaryError, match="ExpiredToken"):
        iam.account_summary()
    iam.account_summary()
    assert aws.calls("GetAccountSummary")[-1].signed_by == newer["AWS_ACCESS_KEY_ID"]


def test_no_credentials_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    cloud = cloud_of(AccountSettings(id=ACCOUNT))
    with pytest.raises(TemporaryError, match="no AWS credentials found"):
        cloud.iam(ACCOUNT).list_users()
    with pytest.raises(TemporaryError, match="no AWS credentials found"):
        cloud.iam(ACCOUNT).create_access_key("ci", operation_id="op-1", guard=passes)


def test_temporary_credentials_of_the_environment_say_when_they_end(
    nobody: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)  # noqa: TID251 - botocore looks at it
    monkeypatch.setenv("AWS_SESSION_TOKEN", "none")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", ends_at.isoformat())
    cloud = cloud_of(AccountSettings(id=ACCOUNT))
    assert cloud.sts.credentials_expire_at(ACCOUNT) == ends_at


# endpoints and Regions


def test_the_configured_endpoint_holds_for_everything(aws: EmulatedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    role_arn = aws.add_role(MEMBER, "rekeyd")
    seeded = aws.create_user(MEMBER, "ci", key_age=timedelta(days=1))
    accounts = (AccountSettings(id=MEMBER, role_arn=role_arn),)
    cloud = AwsCloud(
        AwsSettings(region="us-east-1", endpoint_url=aws.url, accounts=accounts), MachineClock(), instance="contract"
    )
    user = cloud.iam(MEMBER).get_user("ci")
    pair = Pair(
        access_key_id=AccessKeyId(seeded.key.access_key_id), secret_access_key=Secret(seeded.key.secret_access_key)
    )
    assert cloud.sts.prove(pair, user, region="eu-central-1") is Proof.ACCEPTED
    assert [seen.region for seen in aws.calls("GetCallerIdentity")] == ["eu-central-1"]


def test_sts_is_regional_and_iam_the_partitions_whatever_the_environment_says(
    nobody: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_STS_REGIONAL_ENDPOINTS", "legacy")
    table = {
        "eu-west-1": ("aws", "us-east-1", "https://sts.eu-west-1.amazonaws.com"),
        "us-east-1": ("aws", "us-east-1", "https://sts.us-east-1.amazonaws.com"),
        "cn-northwest-1": ("aws-cn", "cn-north-1", "https://sts.cn-northwest-1.amazonaws.com.cn"),
        "us-gov-east-1": ("aws-us-gov", "us-gov-west-1", "https://sts.us-gov-east-1.amazonaws.com"),
        "eusc-de-east-1": ("aws-eusc", "eusc-de-east-1", "https://sts.eusc-de-east-1.amazonaws.eu"),
    }
    for region, expected in table.items():
        sessions = AwsSessions(AwsSettings(region=region, accounts=(AccountSettings(id=ACCOUNT),)), instance="x")
        urls = {
            sessions.sts(ACCOUNT).meta.endpoint_url,
            sessions.probe(region, lambda _: None).meta.endpoint_url,
        }
        assert (sessions.partition, sessions.iam_region, *urls) == expected
        assert sessions.trail(ACCOUNT).meta.region_name == expected[1]


def test_the_role_of_a_member_is_in_the_partition_of_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = AwsSettings(region="cn-north-1", organization=OrganizationSettings(role_name="rekeyd"))
    with emulated(monkeypatch, region="cn-north-1") as aws:
        aws.add_role(MEMBER, "rekeyd")
        caller = AwsCloud(settings, MachineClock(), instance="x").sts.caller_identity(MEMBER)
        assert caller.arn == f"arn:aws-cn:sts::{MEMBER}:assumed-role/rekeyd/rekeyd-x"
        assert [seen.region for seen in aws.calls("AssumeRole")] == ["cn-north-1"]


def test_clients_ignore_the_retry_settings_of_the_environment(nobody: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
    monkeypatch.setenv("AWS_RETRY_MODE", "legacy")
    sessions = AwsSessions(AwsSettings(region="us-east-1", accounts=(AccountSettings(id=ACCOUNT),)), instance="x")
    changing: Any = sessions.changing(ACCOUNT).meta.config
    reading: Any = sessions.reading(ACCOUNT).meta.config
    probing: Any = sessions.probe("us-east-1", lambda _: None).meta.config
    assert changing.retries == {"mode": "standard", "total_max_attempts": 1}
    assert (changing.connect_timeout, changing.read_timeout) == (3, 5)
    assert reading.retries == {"mode": "adaptive", "total_max_attempts": 6}
    assert (probing.retries, probing.read_timeout) == (changing.retries, 5)


# many


def test_everything_is_read_to_the_last_page(aws: EmulatedAws) -> None:
    for n in range(5):
        aws.create_user(ACCOUNT, f"user-{n}", key_age=timedelta(days=1))
    for _ in range(4):
        aws.add_key(ACCOUNT, "user-0")
    iam = cloud_of().iam(ACCOUNT)
    assert {user.user_name for user in iam.list_users()} == {"rekeyd", *(f"user-{n}" for n in range(5))}
    assert len(iam.list_access_keys("user-0")) == 5


def test_a_proof_is_made_once_and_has_no_verdict_without_aws_s_word(aws: EmulatedAws) -> None:
    seeded = aws.create_user(ACCOUNT, "ci", key_age=timedelta(days=1))
    cloud = cloud_of()
    user = cloud.iam(ACCOUNT).get_user("ci")
    pair = Pair(
        access_key_id=AccessKeyId(seeded.key.access_key_id), secret_access_key=Secret(seeded.key.secret_access_key)
    )
    before = len(aws.calls("GetCallerIdentity"))
    for effect in (Drop(), ErrorCode("AccessDenied"), ErrorCode("Throttling"), ErrorCode("ExpiredToken")):
        rule = aws.fault("GetCallerIdentity", do=effect)
        assert cloud.sts.prove(pair, user) is Proof.UNAVAILABLE
        rule.cancel()
    assert cloud.sts.prove(pair, user, region="not a region") is Proof.UNAVAILABLE
    assert len(aws.calls("GetCallerIdentity")) - before == 4


def test_clocks_apart_are_not_a_wrong_secret(aws: EmulatedAws) -> None:
    # AWS has one code for both.
    aws.delays.signature_age = timedelta(minutes=15)
    seeded = aws.create_user(ACCOUNT, "ci", key_age=timedelta(days=1))
    cloud = cloud_of()
    user = cloud.iam(ACCOUNT).get_user("ci")
    pair = Pair(
        access_key_id=AccessKeyId(seeded.key.access_key_id), secret_access_key=Secret(seeded.key.secret_access_key)
    )
    assert cloud.sts.prove(pair, user) is Proof.ACCEPTED
    aws.clock.advance(timedelta(minutes=20))
    assert cloud.sts.prove(pair, user) is Proof.UNAVAILABLE
    assert aws.calls("GetCallerIdentity")[-1].error == "SignatureDoesNotMatch"


def test_a_report_still_being_made_is_waited_for_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with emulated(monkeypatch, delays=Delays(report_build=timedelta(seconds=1))):
        iam = cloud_of().iam(ACCOUNT)
        with pytest.raises(TemporaryError, match=r"GetCredentialReport .*still being made after 0\.1 s"):
            iam.credential_report(max_wait=timedelta(seconds=0.1))
        assert iam.credential_report(max_wait=timedelta(seconds=10)).root is not None
