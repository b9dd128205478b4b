"""What is known after a change whose answer did not come back whole, over real HTTP; each is sent exactly once."""

import socket
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

import pytest

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_session import AccountSettings, AwsSettings
from rekeyd.core.model import AccessKeyId, KeyStatus
from rekeyd.demo.emulator import Drop, EmulatedAws, ErrorCode, Hold, Http, Throttle, Truncate
from rekeyd.demo.emulator.faults import Effect, Moment
from rekeyd.errors import (
    AccessDeniedError,
    Error,
    LimitExceededError,
    OutcomeUnknownError,
    RefusedError,
    StoppingError,
    TemporaryError,
)
from tests.contract.aws_sides import ACCOUNT, MachineClock, emulated


class Loss(NamedTuple):
    when: Moment
    do: Effect
    error: type[Error]
    made: bool


LOSSES = {
    "dropped after AWS acted": Loss("after", Drop(), OutcomeUnknownError, made=True),
    "dropped before AWS acted": Loss("before", Drop(), OutcomeUnknownError, made=False),
    "cut in the middle": Loss("after", Truncate(), OutcomeUnknownError, made=True),
    "cut in the middle, with no length announced": Loss(
        "after", Truncate(announce_length=False), OutcomeUnknownError, made=True
    ),
    "503 with a page of a proxy": Loss("after", Http(503), OutcomeUnknownError, made=True),
    "500 ServiceFailure": Loss("after", Http(500, "xml"), OutcomeUnknownError, made=True),
    "200 with a page of a proxy": Loss("after", Http(200), OutcomeUnknownError, made=True),
    "200 with JSON": Loss("after", Http(200, "json"), OutcomeUnknownError, made=True),
    "302 of a proxy": Loss("after", Http(302), OutcomeUnknownError, made=True),
    "408 of a load balancer": Loss("after", Http(408), OutcomeUnknownError, made=True),
    "throttled": Loss("before", Throttle(), TemporaryError, made=False),
    "another change under way": Loss(
        "before", ErrorCode("ConcurrentModification", status=409), TemporaryError, made=False
    ),
    "denied": Loss("before", ErrorCode("AccessDenied"), AccessDeniedError, made=False),
    "invalid": Loss("before", ErrorCode("ValidationError", status=400), RefusedError, made=False),
    "over the quota": Loss("before", ErrorCode("LimitExceeded"), LimitExceededError, made=False),
    "own credentials expired": Loss("before", ErrorCode("ExpiredToken"), TemporaryError, made=False),
}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedAws]:
    # Whatever the environment asks for.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    monkeypatch.setenv("AWS_RETRY_MODE", "legacy")
    with emulated(monkeypatch) as aws:
        aws.create_user(ACCOUNT, "ci", key_age=timedelta(days=100))
        yield aws


@pytest.fixture
def cloud(aws: EmulatedAws) -> AwsCloud:
    return AwsCloud(AwsSettings(region="us-east-1"), MachineClock(), instance="contract")


def passes() -> None:
    """A guard of a holder that still holds."""


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_creation_is_sent_once_and_its_outcome_is_never_guessed(
    aws: EmulatedAws, cloud: AwsCloud, loss: Loss
) -> None:
    aws.fault("CreateAccessKey", when=loss.when, do=loss.do)
    with pytest.raises(loss.error, match=f"iam:CreateAccessKey for {ACCOUNT}/ci") as caught:
        cloud.iam(ACCOUNT).create_access_key("ci", operation_id="op-1", guard=passes)
    assert type(caught.value) is loss.error
    assert len(aws.calls("CreateAccessKey")) == 1
    assert len(aws.keys(ACCOUNT, "ci")) == (2 if loss.made else 1)
    _holds_no_secret(caught.value, aws)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_deactivation_and_a_deletion_are_sent_once_too(aws: EmulatedAws, cloud: AwsCloud, loss: Loss) -> None:
    key_id = AccessKeyId(aws.keys(ACCOUNT, "ci")[0].access_key_id)
    aws.fault("UpdateAccessKey", when=loss.when, do=loss.do)
    aws.fault("DeleteAccessKey", when=loss.when, do=loss.do)
    with pytest.raises(loss.error, match="iam:UpdateAccessKey"):
        cloud.iam(ACCOUNT).update_access_key("ci", key_id, KeyStatus.INACTIVE, guard=passes)
    assert aws.key(key_id).status == ("Inactive" if loss.made else "Active")
    with pytest.raises(loss.error, match="iam:DeleteAccessKey"):
        cloud.iam(ACCOUNT).delete_access_key("ci", key_id, guard=passes)
    assert (aws.key(key_id).status == "Deleted") is loss.made
    assert (len(aws.calls("UpdateAccessKey")), len(aws.calls("DeleteAccessKey"))) == (1, 1)


@pytest.mark.slow
def test_an_answer_later_than_five_seconds_is_an_outcome_unknown(aws: EmulatedAws, cloud: AwsCloud) -> None:
    rule = aws.fault("CreateAccessKey", when="after", do=Hold())
    before = MachineClock().monotonic()
    with pytest.raises(OutcomeUnknownError, match="ReadTimeoutError"):
        cloud.iam(ACCOUNT).create_access_key("ci", operation_id="op-1", guard=passes)
    rule.release.set()
    assert 4 < MachineClock().monotonic() - before < 8
    assert len(aws.calls("CreateAccessKey")) == 1
    assert len(aws.keys(ACCOUNT, "ci")) == 2


def test_the_quota_hides_no_key_of_ours_because_nothing_is_repeated(aws: EmulatedAws, cloud: AwsCloud) -> None:
    # With botocore's own retries the second attempt would meet LimitExceeded: "certainly not made", and a key is there.
    aws.fault("CreateAccessKey", when="after", do=Drop())
    with pytest.raises(OutcomeUnknownError, match="lost"):
        cloud.iam(ACCOUNT).create_access_key("ci", operation_id="op-1", guard=passes)
    assert [seen.error for seen in aws.calls("CreateAccessKey")] == [None]


def test_a_server_that_is_not_there_got_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAXXXXXXXXXXXXXXXX")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not a key of anybody")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        settings = AwsSettings(region="us-east-1", endpoint_url=url, accounts=(AccountSettings(id=ACCOUNT),))
        iam = AwsCloud(settings, MachineClock(), instance="contract").iam(ACCOUNT)
        with pytest.raises(TemporaryError, match="was not sent: AWS cannot be reached"):
            iam.create_access_key("ci", operation_id="op-1", guard=passes)


def test_a_request_to_stop_in_the_guard_stays_one(aws: EmulatedAws, cloud: AwsCloud) -> None:
    def stops() -> None:
        raise StoppingError("asked to stop")

    with pytest.raises(StoppingError, match="asked to stop"):
        cloud.iam(ACCOUNT).create_access_key("ci", operation_id="op-1", guard=stops)
    assert aws.calls("CreateAccessKey") == []


def test_a_read_waits_out_throttling_and_broken_answers(aws: EmulatedAws, cloud: AwsCloud) -> None:
    aws.fault("ListAccessKeys", do=Drop())
    aws.fault("ListAccessKeys", do=Http(503), nth=2)
    assert len(cloud.iam(ACCOUNT).list_access_keys("ci")) == 1
    assert len(aws.calls("ListAccessKeys")) == 3


def test_a_page_of_a_proxy_is_never_an_empty_list(aws: EmulatedAws, cloud: AwsCloud) -> None:
    iam = cloud.iam(ACCOUNT)
    aws.fault("ListAccessKeys", do=Http(200), forever=True)
    aws.fault("GetAccountAuthorizationDetails", do=Http(200), forever=True)
    aws.fault("GetAccountSummary", do=Http(200), forever=True)
    aws.fault("GetUser", do=Http(200), forever=True)
    with pytest.raises(TemporaryError, match="no usable answer"):
        iam.list_access_keys("ci")
    with pytest.raises(TemporaryError, match="no usable answer"):
        iam.list_users()
    with pytest.raises(TemporaryError, match="no usable answer"):
        iam.account_summary()
    with pytest.raises(TemporaryError, match="no usable answer"):
        iam.get_user("ci")


def _holds_no_secret(error: BaseException, aws: EmulatedAws) -> None:
    """Nor does anything that a traceback would print."""
    assert error.__cause__ is None
    assert error.__context__ is None
    printed = "".join(traceback.format_exception(error))
    secrets = [secret for secret in aws.secrets if secret in printed]
    assert not secrets
