"""What AWS Health knows of exposed keys, by its adapter, against the emulator."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_session import AccountSettings, AwsSessions, AwsSettings
from rekeyd.adapters.clock import SystemClock
from rekeyd.core.model import AccountId
from rekeyd.demo.emulator import HUB, EmulatedAws, Throttle
from rekeyd.errors import AccessDeniedError
from tests.conftest import LogLines
from tests.secret_registry import remember

pytestmark = pytest.mark.slow

ACCOUNT = AccountId(HUB)
DAY = timedelta(days=1)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedAws]:
    with EmulatedAws(on_secret=remember, page_size=2) as emulated:
        emulated.subscribe_health(HUB)
        for name, value in emulated.daemon_environment().items():
            monkeypatch.setenv(name, value)
        yield emulated


def _cloud(aws: EmulatedAws, *, health: bool = True) -> AwsCloud:
    # Where its endpoint is does not follow from the Region of the configuration.
    settings = AwsSettings(region="eu-central-1", health=health)
    return AwsCloud(settings, SystemClock(), instance="test")


def _asked(aws: EmulatedAws) -> list[str]:
    return [seen.op for seen in aws.requests if seen.service == "health"]


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-central-1", "global.health.amazonaws.com"),
        ("cn-north-1", "global.health.amazonaws.com.cn"),
        # It is in us-gov-west-1 alone.
        ("us-gov-east-1", "health.us-gov-west-1.amazonaws.com"),
    ],
)
def test_each_partition_has_one_place_for_it(monkeypatch: pytest.MonkeyPatch, region: str, host: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    settings = AwsSettings(region=region, health=True, accounts=(AccountSettings(id=ACCOUNT),))
    assert AwsSessions(settings, instance="test").health(ACCOUNT).meta.endpoint_url == f"https://{host}"


def test_a_notice_names_the_user_and_its_key(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "ci", key_age=10 * DAY)
    aws.report_exposed(HUB, user.key.access_key_id)
    (notice,) = _cloud(aws).iam(ACCOUNT).exposure_notices() or ()
    assert (notice.user_name, notice.key_ids) == ("ci", (user.key.access_key_id,))
    assert notice.code == "AWS_RISK_CREDENTIALS_EXPOSED"
    assert abs(notice.since - aws.clock.now()) < timedelta(minutes=1)


def test_a_notice_ends_with_its_key_or_with_its_event(aws: EmulatedAws) -> None:
    inactive, gone, over = (aws.create_user(HUB, name, key_age=10 * DAY) for name in ("inactive", "gone", "over"))
    events = [aws.report_exposed(HUB, user.key.access_key_id) for user in (inactive, gone, over)]
    iam = _cloud(aws).iam(ACCOUNT)
    assert {each.user_name for each in iam.exposure_notices() or ()} == {"inactive", "gone", "over"}
    client = aws.client("iam")
    client.update_access_key(UserName="inactive", AccessKeyId=inactive.key.access_key_id, Status="Inactive")
    client.delete_access_key(UserName="gone", AccessKeyId=gone.key.access_key_id)
    events[2].open = False
    assert iam.exposure_notices() == ()


def test_more_notices_than_one_call_answers(aws: EmulatedAws) -> None:
    users = [aws.create_user(HUB, f"u{number:02}", key_age=10 * DAY) for number in range(23)]
    for user in users:
        aws.report_exposed(HUB, user.key.access_key_id)
    found = _cloud(aws).iam(ACCOUNT).exposure_notices() or ()
    assert sorted(str(each.user_name) for each in found) == [user.name for user in users]


def test_a_notice_about_a_user_means_its_keys_of_then(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "ci", key_age=10 * DAY)
    aws.clock.advance(timedelta(seconds=2))
    aws.report_exposed(HUB, f"arn:aws:iam::{HUB}:user/team/ci")
    aws.clock.advance(timedelta(seconds=2))
    aws.add_key(HUB, "ci")
    (notice,) = _cloud(aws).iam(ACCOUNT).exposure_notices() or ()
    assert (notice.user_name, notice.key_ids) == ("ci", (user.key.access_key_id,))


def test_whose_it_is_may_not_be_told(aws: EmulatedAws) -> None:
    root = aws.add_root_key(HUB)
    denied = aws.create_user(HUB, "ci", key_age=10 * DAY)
    entities = [root.access_key_id, "what\nis this", "", denied.key.access_key_id]
    for entity in entities:
        aws.report_exposed(HUB, entity, code="AWS_RISK_CREDENTIALS_EXPOSURE_SUSPECTED")
    aws.deny(HUB, "ListAccessKeys", user="ci")
    found = _cloud(aws).iam(ACCOUNT).exposure_notices() or ()
    assert [(each.user_name, each.key_ids) for each in found] == [(None, ())] * 4
    assert [each.entity for each in found] == [root.access_key_id, "what?is this", "", denied.key.access_key_id]


def test_other_events_of_aws_health_are_none(aws: EmulatedAws) -> None:
    aws.report_exposed(HUB, HUB, code="AWS_RISK_ACCOUNT_CONSOLE_COMPROMISE")
    assert _cloud(aws).iam(ACCOUNT).exposure_notices() == ()
    assert _asked(aws) == ["DescribeEvents"]


def test_without_a_support_plan_there_is_no_answer_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, log_lines: LogLines
) -> None:
    with EmulatedAws(on_secret=remember) as aws:
        for name, value in aws.daemon_environment().items():
            monkeypatch.setenv(name, value)
        iam = _cloud(aws).iam(ACCOUNT)
        assert [iam.exposure_notices() for _ in range(3)] == [None] * 3
        assert _asked(aws) == ["DescribeEvents"] * 3
    assert [line["event"] for line in log_lines()].count("health.unavailable") == 1


def test_it_is_asked_only_where_the_configuration_says_so(aws: EmulatedAws) -> None:
    assert _cloud(aws, health=False).iam(ACCOUNT).exposure_notices() is None
    assert _asked(aws) == []


def test_a_denial_is_an_error_and_throttling_is_repeated(aws: EmulatedAws) -> None:
    iam = _cloud(aws).iam(ACCOUNT)
    aws.fault("DescribeEvents", do=Throttle())
    assert iam.exposure_notices() == ()
    aws.deny(HUB, "DescribeEvents")
    with pytest.raises(AccessDeniedError, match="health:DescribeEvents"):
        iam.exposure_notices()
