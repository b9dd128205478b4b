"""What an exception of botocore means for a read and for a change."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from rekeyd.adapters.aws_errors import Call, ask, change_failure, read_failure
from rekeyd.adapters.aws_sts import _verdict
from rekeyd.core.model import AccountId, Proof
from rekeyd.errors import (
    AccessDeniedError,
    Error,
    LimitExceededError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    TemporaryError,
)

CALL = Call(action="iam:CreateAccessKey", account_id=AccountId("111122223333"), user_name="ci")
URL = "https://iam.amazonaws.com"
BODY = "<AccessKey><SecretAccessKey>wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLE"


def answered(code: str, status: int, message: str = "", date: str | None = None) -> ClientError:
    headers = {} if date is None else {"date": date}
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return ClientError(response, "CreateAccessKey")


TABLE: dict[str, tuple[Exception, type[Error], type[Error]]] = {
    "no connection": (EndpointConnectionError(endpoint_url=URL), TemporaryError, TemporaryError),
    "no connection in time": (ConnectTimeoutError(endpoint_url=URL), TemporaryError, TemporaryError),
    "no answer in time": (ReadTimeoutError(endpoint_url=URL), TemporaryError, OutcomeUnknownError),
    "connection closed": (ConnectionClosedError(endpoint_url=URL), TemporaryError, OutcomeUnknownError),
    "something else of HTTP": (HTTPClientError(error="x"), TemporaryError, OutcomeUnknownError),
    "TLS broken off": (SSLError(endpoint_url=URL, error=OSError("x")), TemporaryError, OutcomeUnknownError),
    "proxy broken off": (ProxyConnectionError(proxy_url=URL), TemporaryError, OutcomeUnknownError),
    "half an answer": (ResponseParserError(BODY), TemporaryError, OutcomeUnknownError),
    "an answer without the key": (KeyError("AccessKey"), TemporaryError, OutcomeUnknownError),
    "a bug": (ZeroDivisionError(BODY), TemporaryError, OutcomeUnknownError),
    "denied": (answered("AccessDenied", 403), AccessDeniedError, AccessDeniedError),
    "no such user": (answered("NoSuchEntity", 404), NotFoundError, NotFoundError),
    "over the quota": (answered("LimitExceeded", 409), LimitExceededError, LimitExceededError),
    "invalid": (answered("ValidationError", 400), RefusedError, RefusedError),
    "throttled": (answered("Throttling", 400), TemporaryError, TemporaryError),
    "throttled with 503, which IAM does not do": (answered("Throttling", 503), TemporaryError, OutcomeUnknownError),
    "own key refused": (answered("InvalidClientTokenId", 403), TemporaryError, TemporaryError),
    "modified just now": (answered("EntityTemporarilyUnmodifiable", 409), TemporaryError, TemporaryError),
    "service failed": (answered("ServiceFailure", 500), TemporaryError, OutcomeUnknownError),
    "service failed, with an odd status": (answered("InternalFailure", 400), TemporaryError, OutcomeUnknownError),
    "a proxy's page, 503": (answered("503", 503), TemporaryError, OutcomeUnknownError),
    "a proxy's page, 403": (answered("403", 403), TemporaryError, OutcomeUnknownError),
    "a page that says nothing": (answered("Unknown", 404), RefusedError, OutcomeUnknownError),
    "a redirect": (answered("Moved", 302), RefusedError, OutcomeUnknownError),
}


@pytest.mark.parametrize(("error", "read", "change"), TABLE.values(), ids=TABLE)
def test_the_error_says_what_is_known(error: Exception, read: type[Error], change: type[Error]) -> None:
    assert type(read_failure(error, CALL)) is read
    failure = change_failure(error, CALL)
    assert type(failure) is change
    assert "iam:CreateAccessKey for 111122223333/ci" in failure.message
    assert "wJalr" not in f"{failure.message}{failure.hint}"


FOREIGNERS = [f(BODY) for f in (ResponseParserError, OSError, RuntimeError, KeyError, ValueError, TypeError)]


@pytest.mark.parametrize("foreign", [BotoCoreError(), *FOREIGNERS], ids=lambda foreign: type(foreign).__name__)
def test_a_read_raises_nothing_foreign_and_carries_nothing_foreign(foreign: Exception) -> None:
    def fails() -> None:
        raise foreign

    with pytest.raises(TemporaryError, match="got no usable answer") as caught:
        ask(CALL, fails)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_denied_names_the_permission_to_give() -> None:
    assert "allow iam:CreateAccessKey" in str(read_failure(answered("AccessDenied", 403), CALL).hint)


def test_no_credentials_was_not_sent() -> None:
    assert "was not sent" in read_failure(NoCredentialsError(), CALL).message


SIGNED_AT = datetime(2026, 11, 23, 12, tzinfo=UTC)

VERDICTS = {
    "a wrong secret, with AWS's clock near": ("SignatureDoesNotMatch", "", timedelta(seconds=2), Proof.WRONG_SECRET),
    "four minutes apart": ("SignatureDoesNotMatch", "", timedelta(minutes=4), Proof.WRONG_SECRET),
    "more than that": ("SignatureDoesNotMatch", "", timedelta(minutes=4, seconds=1), Proof.UNAVAILABLE),
    "our clock ahead": ("SignatureDoesNotMatch", "", timedelta(minutes=-5), Proof.UNAVAILABLE),
    "AWS says so": ("SignatureDoesNotMatch", "Signature expired: x", timedelta(0), Proof.UNAVAILABLE),
    "no clock to compare with": ("SignatureDoesNotMatch", "", None, Proof.UNAVAILABLE),
    "an unknown, inactive or deleted key": ("InvalidClientTokenId", "", None, Proof.NOT_HONOURED),
    "denied": ("AccessDenied", "", timedelta(0), Proof.UNAVAILABLE),
    "the Region is not enabled": ("RegionDisabledException", "", timedelta(0), Proof.UNAVAILABLE),
}


@pytest.mark.parametrize(("code", "message", "apart", "verdict"), VERDICTS.values(), ids=VERDICTS)
def test_only_aws_s_own_word_is_a_verdict(code: str, message: str, apart: timedelta | None, verdict: Proof) -> None:
    date = None if apart is None else format_datetime(SIGNED_AT + apart, usegmt=True)
    assert _verdict(answered(code, 403, message, date), SIGNED_AT) is verdict


def test_a_date_that_is_none_gives_no_verdict() -> None:
    assert _verdict(answered("SignatureDoesNotMatch", 403, "", "yesterday"), SIGNED_AT) is Proof.UNAVAILABLE
