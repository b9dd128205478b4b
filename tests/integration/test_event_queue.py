"""The event queue by its adapter, against the emulated SQS."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from rekeyd.adapters.aws_events import SqsQueue
from rekeyd.adapters.aws_session import AwsSessions, AwsSettings
from rekeyd.adapters.queue_name import queue_name
from rekeyd.demo.emulator import EmulatedAws, Throttle
from rekeyd.errors import AccessDeniedError, RefusedError, TemporaryError
from tests.secret_registry import remember

pytestmark = pytest.mark.slow

ACCOUNT = "111122223333"
AT_ONCE = timedelta(0)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedAws]:
    with EmulatedAws(hub=ACCOUNT, on_secret=remember) as emulated:
        for name, value in emulated.daemon_environment().items():
            monkeypatch.setenv(name, value)
        yield emulated


def _made(aws: EmulatedAws) -> tuple[Any, str]:
    sqs = aws.client("sqs")
    return sqs, sqs.create_queue(QueueName="rekeyd-events")["QueueUrl"]


def _queue(aws: EmulatedAws, url: str) -> SqsQueue:
    return SqsQueue(AwsSessions(AwsSettings(region=aws.region), instance="test"), url, region=aws.region)


def test_messages_are_read_and_deleted(aws: EmulatedAws) -> None:
    sqs, url = _made(aws)
    for number in range(12):
        sqs.send_message(QueueUrl=url, MessageBody=f"{number}")
    queue = _queue(aws, url)
    assert queue.waiting() == 12
    seen: list[str] = []
    while messages := queue.receive(wait=AT_ONCE):
        assert len(messages) <= 10
        seen += [each.body for each in messages]
        assert queue.delete(messages) == 0
    assert sorted(seen, key=int) == [str(number) for number in range(12)]
    assert queue.waiting() == 0


def test_a_message_that_was_not_deleted_comes_again(aws: EmulatedAws) -> None:
    sqs, url = _made(aws)
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "0"})
    sqs.send_message(QueueUrl=url, MessageBody="x")
    queue = _queue(aws, url)
    assert [each.body for each in queue.receive(wait=AT_ONCE)] == ["x"]
    assert [each.body for each in queue.receive(wait=AT_ONCE)] == ["x"]


def test_a_long_poll_holds_up_nobody_and_ends_when_a_message_comes(aws: EmulatedAws) -> None:
    sqs, url = _made(aws)
    got: list[str] = []
    queue = _queue(aws, url)
    poll = threading.Thread(target=lambda: got.extend(each.body for each in queue.receive()))
    poll.start()
    try:
        while not [each for each in aws.requests if each.op == "ReceiveMessage"]:
            poll.join(0.01)
        # The other services answer while it waits.
        assert aws.client("iam").list_users()["Users"]
        assert poll.is_alive()
    finally:
        sqs.send_message(QueueUrl=url, MessageBody="at last")
        poll.join(30)
    assert got == ["at last"]


def test_a_queue_that_is_not_there_or_denied_or_throttled_is_an_error_of_ours(aws: EmulatedAws) -> None:
    _, url = _made(aws)
    with pytest.raises(RefusedError, match=f"sqs:ReceiveMessage for {ACCOUNT} was refused"):
        _queue(aws, url + "-gone").receive(wait=AT_ONCE)
    queue = _queue(aws, url)
    denial = aws.deny(ACCOUNT, "ReceiveMessage")
    with pytest.raises(AccessDeniedError, match="sqs:ReceiveMessage"):
        queue.receive(wait=AT_ONCE)
    denial.lift()
    aws.fault("GetQueueAttributes", do=Throttle())
    with pytest.raises(TemporaryError, match="sqs:GetQueueAttributes"):
        queue.waiting()


NAMES = {
    "https://sqs.eu-central-1.amazonaws.com/111122223333/rekeyd": "eu-central-1",
    "https://sqs.cn-north-1.amazonaws.com.cn/111122223333/rekeyd": "cn-north-1",
    "https://sqs-fips.us-gov-west-1.amazonaws.com/111122223333/rekeyd.fifo": "us-gov-west-1",
    "https://us-west-2.queue.amazonaws.com/111122223333/rekeyd": "us-west-2",
    "https://vpce-0a1b.sqs.eu-west-1.vpce.amazonaws.com/111122223333/rekeyd": "eu-west-1",
    "http://127.0.0.1:5000/111122223333/rekeyd": None,
    "https://sqs.eu-central-1.example.com/111122223333/rekeyd": None,
}


@pytest.mark.parametrize(("url", "region"), NAMES.items())
def test_the_url_tells_the_region_where_it_is_aws_own(url: str, region: str | None) -> None:
    name = queue_name(url)
    assert (name.account_id, name.region) == (ACCOUNT, region)
    assert name.arn("aws", "sa-east-1") == f"arn:aws:sqs:{region or 'sa-east-1'}:{ACCOUNT}:{url.rpartition('/')[2]}"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "rekeyd",
        "arn:aws:sqs:us-east-1:111122223333:rekeyd",
        "https://sqs.us-east-1.amazonaws.com/rekeyd",
        "https://sqs.us-east-1.amazonaws.com/111122223333/rekeyd/x",
        "https://sqs.us-east-1.amazonaws.com/111122223333/rekeyd?x=1",
        "ftp://sqs.us-east-1.amazonaws.com/111122223333/rekeyd",
    ],
)
def test_what_is_no_queue_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of an SQS queue"):
        queue_name(url)
