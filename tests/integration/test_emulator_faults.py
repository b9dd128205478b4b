"""Faults before, after and once answered; each one line in a test."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, IncompleteReadError, ReadTimeoutError
from botocore.parsers import ResponseParserError

from rekeyd.demo.emulator import (
    HUB,
    Call,
    Delay,
    Drop,
    EmulatedAws,
    ErrorCode,
    Hold,
    HoldBack,
    Http,
    Kill,
    LateDuplicate,
    SeenRequest,
    Throttle,
    Truncate,
)
from tests.secret_registry import remember

DAY = timedelta(days=1)
LIMIT = 20.0


@pytest.fixture
def aws() -> Iterator[EmulatedAws]:
    with EmulatedAws(on_secret=remember) as emulated:
        emulated.create_user(HUB, "svc")
        yield emulated


@pytest.fixture
def iam(aws: EmulatedAws) -> Any:
    return aws.client("iam")


def keys(aws: EmulatedAws) -> int:
    return len(aws.keys(HUB, "svc"))


@pytest.mark.parametrize(("when", "left"), [("before", 0), ("after", 1)])
def test_a_dropped_connection_looks_the_same_whether_or_not_aws_acted(
    aws: EmulatedAws, iam: Any, when: Any, left: int
) -> None:
    aws.fault("CreateAccessKey", when=when, do=Drop())
    with pytest.raises(ConnectionClosedError, match="Connection was closed"):
        iam.create_access_key(UserName="svc")
    assert keys(aws) == left
    (seen,) = aws.calls("CreateAccessKey")
    assert (seen.acted, seen.status, seen.fault) == (when == "after", None, "Drop")
    assert (seen.created_access_key_id is not None) == (when == "after")


@pytest.mark.parametrize("announce", [True, False])
def test_half_an_answer_is_no_answer(aws: EmulatedAws, iam: Any, announce: bool) -> None:
    aws.fault("CreateAccessKey", when="after", do=Truncate(announce_length=announce))
    with pytest.raises((ResponseParserError, IncompleteReadError), match=r"unclosed|no element|read"):
        iam.create_access_key(UserName="svc")
    assert keys(aws) == 1


@pytest.mark.parametrize(
    ("do", "code", "status"),
    [
        (Http(503, "html"), "503", 503),
        (Http(500, "xml"), "ServiceFailure", 500),
        (Throttle(), "Throttling", 400),
        (ErrorCode("LimitExceeded"), "LimitExceeded", 409),
        (ErrorCode("AccessDenied"), "AccessDenied", 403),
        (ErrorCode("ExpiredToken"), "ExpiredToken", 403),
    ],
)
@pytest.mark.parametrize(("when", "left"), [("before", 0), ("after", 1)])
def test_an_error_may_come_instead_of_the_act_or_after_it(
    aws: EmulatedAws, iam: Any, do: Any, code: str, status: int, when: Any, left: int
) -> None:
    aws.fault("CreateAccessKey", when=when, do=do)
    with pytest.raises(ClientError, match="An error occurred") as caught:
        iam.create_access_key(UserName="svc")
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert keys(aws) == left


def test_a_portals_page_with_status_200_has_no_key_in_it(aws: EmulatedAws, iam: Any) -> None:
    aws.fault("CreateAccessKey", when="after", do=Http(200, "html"))
    # Not even one of botocore's own errors.
    with pytest.raises(KeyError, match="CreateAccessKeyResult"):
        iam.create_access_key(UserName="svc")
    assert keys(aws) == 1


def test_the_nth_and_the_following_requests_are_hit_and_no_other(aws: EmulatedAws, iam: Any) -> None:
    rule = aws.fault("ListUsers", nth=2, times=2, do=Throttle())
    outcomes = []
    for _ in range(5):
        try:
            iam.list_users()
            outcomes.append("ok")
        except ClientError as error:
            outcomes.append(error.response["Error"]["Code"])
    assert outcomes == ["ok", "Throttling", "Throttling", "ok", "ok"]
    assert (rule.matched, rule.fired) == (5, 2)


def test_for_ever_lasts_until_it_is_cancelled(aws: EmulatedAws, iam: Any) -> None:
    rule = aws.fault("ListUsers", forever=True, do=Throttle())
    for _ in range(3):
        with pytest.raises(ClientError, match="Throttling"):
            iam.list_users()
    rule.cancel()
    assert iam.list_users()["Users"]


def test_a_rule_may_name_account_user_and_any_condition(aws: EmulatedAws, iam: Any) -> None:
    aws.create_user(HUB, "other")
    aws.fault("ListAccessKeys", forever=True, user="svc", account=HUB, do=Throttle())
    aws.fault("ListAccessKeys", forever=True, account="999999999999", do=Drop())
    aws.fault("iam:*", forever=True, where=lambda seen: seen.region != "us-east-1", do=Drop())
    assert iam.list_access_keys(UserName="other")["AccessKeyMetadata"] == []
    with pytest.raises(ClientError, match="Throttling"):
        iam.list_access_keys(UserName="svc")


def test_the_signing_user_is_the_user_of_a_call_without_a_name(aws: EmulatedAws) -> None:
    key = aws.add_key(HUB, "svc")
    aws.fault("GetCallerIdentity", user="svc", do=ErrorCode("InvalidClientTokenId"))
    sts = aws.client_with("sts", key.access_key_id, key.secret_access_key)
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        sts.get_caller_identity()
    assert sts.get_caller_identity()["Account"] == HUB


def test_an_answer_is_held_until_released(aws: EmulatedAws, iam: Any) -> None:
    rule = aws.fault("CreateAccessKey", when="after", do=Hold())
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(iam.create_access_key, UserName="svc")
        assert rule.hit.wait(LIMIT)
        assert keys(aws) == 1
        assert not answer.done()
        rule.release.set()
        assert answer.result(LIMIT)["AccessKey"]["AccessKeyId"] == aws.keys(HUB, "svc")[0].access_key_id


def test_an_answer_later_than_the_clients_patience_is_lost(aws: EmulatedAws) -> None:
    session = aws.open_admin_session(HUB)
    import boto3
    from botocore.config import Config

    hasty = boto3.Session().client(
        "iam",
        endpoint_url=aws.url,
        region_name="us-east-1",
        aws_access_key_id=session.access_key_id,
        aws_secret_access_key=session.secret_access_key,
        aws_session_token=session.token,
        config=Config(read_timeout=0.2, retries={"total_max_attempts": 1, "mode": "standard"}),
    )
    rule = aws.fault("CreateAccessKey", when="after", do=Delay(30))
    with pytest.raises(ReadTimeoutError, match="Read timeout"):
        hasty.create_access_key(UserName="svc")
    rule.release.set()
    assert keys(aws) == 1


def test_a_function_is_called_once_the_answer_is_out(aws: EmulatedAws, iam: Any) -> None:
    called: list[SeenRequest] = []
    done = threading.Event()

    def note(seen: SeenRequest) -> None:
        called.append(seen)
        done.set()

    aws.fault("ListUsers", when="answered", do=Call(note))
    assert iam.list_users()["Users"]
    assert done.wait(LIMIT)
    assert [(seen.op, seen.status) for seen in called] == [("ListUsers", 200)]


@pytest.mark.slow
@pytest.mark.parametrize(("when", "left"), [("before", 0), ("after", 1)])
def test_a_process_is_killed_exactly_there(aws: EmulatedAws, when: Any, left: int) -> None:
    code = "import boto3; boto3.client('iam').create_access_key(UserName='svc'); print('answered')"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=aws.daemon_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    aws.fault("CreateAccessKey", when=when, do=Kill(lambda: process.pid))
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (-signal.SIGKILL, b"")
    assert keys(aws) == left
    assert len(aws.calls("CreateAccessKey")) == 1


def test_a_request_kept_back_arrives_when_the_test_says(aws: EmulatedAws, iam: Any) -> None:
    rule = aws.fault("CreateAccessKey", do=HoldBack())
    with pytest.raises(ConnectionClosedError, match="Connection was closed"):
        iam.create_access_key(UserName="svc")
    assert keys(aws) == 0
    assert [answer.status for answer in rule.deliver()] == [200]
    assert keys(aws) == 1


def test_a_late_request_may_come_after_its_retry(aws: EmulatedAws, iam: Any) -> None:
    aws.fault("CreateAccessKey", do=LateDuplicate())
    with pytest.raises(ConnectionClosedError, match="Connection was closed"):
        iam.create_access_key(UserName="svc")
    iam.create_access_key(UserName="svc")
    assert keys(aws) == 2
    assert len(aws.calls("CreateAccessKey")) == 2


def test_stopping_releases_whoever_is_held(aws: EmulatedAws, iam: Any) -> None:
    rule = aws.fault("ListUsers", do=Hold())
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(iam.list_users)
        assert rule.hit.wait(LIMIT)
        aws.clear_faults()
        assert answer.result(LIMIT)["Users"]


def test_a_long_life_need_not_fill_the_memory(aws: EmulatedAws, iam: Any) -> None:
    aws.journal_limit = 2
    for _ in range(5):
        iam.list_users()
    assert [seen.seq for seen in aws.requests] == [4, 5]


def test_sixteen_clients_at_once_confuse_nothing(aws: EmulatedAws, iam: Any) -> None:
    for n in range(16):
        aws.create_user(HUB, f"user-{n}", key_age=DAY)

    def work(n: int) -> int:
        for _ in range(5):
            made = iam.create_access_key(UserName=f"user-{n}")["AccessKey"]
            iam.get_account_authorization_details(Filter=["User"])
            iam.delete_access_key(UserName=f"user-{n}", AccessKeyId=made["AccessKeyId"])
        return len(iam.list_access_keys(UserName=f"user-{n}")["AccessKeyMetadata"])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == [1] * 16
    assert [seen.seq for seen in aws.requests] == list(range(1, len(aws.requests) + 1))
    assert {seen.status for seen in aws.requests} == {200}
