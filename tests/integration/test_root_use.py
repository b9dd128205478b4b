"""What CloudTrail shows over HTTP: the root user's own calls and nobody else's, and the roles that a key began."""

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_session import AwsSettings, OrganizationSettings
from rekeyd.adapters.aws_trail import AwsTrail
from rekeyd.adapters.clock import SystemClock
from rekeyd.core.cloudtrail import is_root_user
from rekeyd.core.model import AccessKeyId, AccountId
from rekeyd.demo.emulator import EmulatedAws
from rekeyd.errors import AccessDeniedError

pytestmark = pytest.mark.slow

HUB, SHOP = AccountId("111122223333"), AccountId("222233334444")
WEEK = timedelta(days=7)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedAws]:
    with EmulatedAws(hub=HUB) as emulated:
        emulated.world.delays.cloudtrail_lag = timedelta(0)
        for name, value in emulated.daemon_environment().items():
            monkeypatch.setenv(name, value)
        yield emulated


def cloud_of(aws: EmulatedAws, *, region: str = "us-east-1") -> AwsCloud:
    return AwsCloud(AwsSettings(region=region, endpoint_url=aws.url), SystemClock(), instance="test")


def test_the_root_users_own_call_is_seen_and_its_time_told(aws: EmulatedAws) -> None:
    cloud = cloud_of(aws)
    began = aws.clock.now().replace(microsecond=0)
    assert cloud.iam(HUB).root_used_at(since=began - WEEK) is None
    root = aws.add_root_key(HUB)
    aws.client_with("iam", root.access_key_id, root.secret_access_key).create_access_key()
    used_at = cloud.iam(HUB).root_used_at(since=began - WEEK)
    assert used_at is not None
    assert used_at >= began
    assert cloud.iam(HUB).root_used_at(since=used_at + timedelta(minutes=1)) is None


def test_a_users_call_and_a_session_of_assumeroot_are_no_use_of_the_root_user(aws: EmulatedAws) -> None:
    aws.create_organization({SHOP: "shop"}, root_access=True)
    aws.add_role(SHOP, "rekeyd")
    root = aws.add_root_key(SHOP)
    made = aws.client("sts").assume_root(
        TargetPrincipal=SHOP,
        TaskPolicyArn={"arn": "arn:aws:iam::aws:policy/root-task/IAMDeleteRootUserCredentials"},
    )["Credentials"]
    session = aws.client_with("iam", made["AccessKeyId"], made["SecretAccessKey"], token=made["SessionToken"])
    session.delete_access_key(AccessKeyId=root.access_key_id)
    aws.create_user(SHOP, "root", key_age=timedelta(days=1), admin=True)
    aws.client("iam", account_id=SHOP).create_access_key(UserName="root")
    seen = aws.client("cloudtrail", account_id=SHOP).lookup_events(
        LookupAttributes=[{"AttributeKey": "Username", "AttributeValue": "root"}]
    )["Events"]
    assert [each["EventName"] for each in seen] == ["DeleteAccessKey"]
    assert [is_root_user(json.loads(each["CloudTrailEvent"])) for each in seen] == [False]
    organization = OrganizationSettings(role_name="rekeyd")
    settings = AwsSettings(region="us-east-1", endpoint_url=aws.url, organization=organization)
    shop = AwsCloud(settings, SystemClock(), instance="test").iam(SHOP)
    assert shop.root_used_at(since=aws.clock.now() - WEEK) is None


def test_both_regions_are_asked_and_a_denial_names_the_permission(aws: EmulatedAws) -> None:
    cloud = cloud_of(aws, region="eu-central-1")
    since = aws.clock.now() - WEEK
    assert cloud.iam(HUB).root_used_at(since=since) is None
    assert [each.region for each in aws.calls("LookupEvents")] == ["us-east-1", "eu-central-1"]
    aws.deny(HUB, "LookupEvents")
    with pytest.raises(AccessDeniedError, match="cloudtrail:LookupEvents"):
        cloud.iam(HUB).root_used_at(since=since)


@pytest.mark.parametrize(
    "event",
    [
        {"userIdentity": {"type": "Root", "invokedBy": "support.amazonaws.com"}},
        {"userIdentity": {"type": "Root"}, "eventType": "AwsServiceEvent"},
        {"userIdentity": {"type": "Root", "sessionContext": {"assumedRoot": "true"}}},
        {"userIdentity": {"type": "IAMUser"}},
        {"userIdentity": None},
        {},
    ],
)
def test_what_is_not_the_root_user_itself_is_passed_over(event: dict[str, object]) -> None:
    assert not is_root_user(event)


def test_a_sign_in_of_the_root_user_counts() -> None:
    assert is_root_user(
        {"userIdentity": {"type": "Root"}, "eventName": "ConsoleLogin", "eventType": "AwsConsoleSignIn"}
    )


def test_roles_are_followed_from_a_key_over_its_sessions(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "ci", key_age=timedelta(days=1), admin=True)
    direct, chained = aws.add_role(HUB, "direct"), aws.add_role(HUB, "chained")
    key = user.key
    sts = aws.client_with("sts", key.access_key_id, key.secret_access_key)
    sts.assume_role(RoleArn=direct, RoleSessionName="one")
    made = sts.get_session_token()["Credentials"]
    within = aws.client_with("sts", made["AccessKeyId"], made["SecretAccessKey"], token=made["SessionToken"])
    within.assume_role(RoleArn=chained, RoleSessionName="two")
    aws.client("sts").assume_role(RoleArn=direct, RoleSessionName="somebody else")
    since = aws.clock.now() - timedelta(hours=12)
    seen = AwsTrail(cloud_of(aws).sessions, HUB).roles_of(AccessKeyId(key.access_key_id), since=since)
    assert {(role.role_arn, role.session_name, role.signed_by) for role in seen.roles} == {
        (direct, "one", key.access_key_id),
        (chained, "two", made["AccessKeyId"]),
    }
    assert seen.complete
    assert seen.regions == ("us-east-1",)
