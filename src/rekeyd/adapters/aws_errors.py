"""What became of a call to AWS, as one of rekeyd's own errors.

* A read that failed is TemporaryError, or RefusedError when AWS said no.
* A change that left this machine failed for certain only if AWS itself said so in a well-formed
  answer below 500, or if no connection came about. Everything else is OutcomeUnknownError.
* The foreign exception is never chained: botocore's ResponseParserError prints the answer, and half an
  answer of CreateAccessKey or AssumeRole has the secret in it. Hence no `raise … from` and no `raise`
  inside an except block; the message names the class and AWS's code instead.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
)
from botocore.parsers import ResponseParserError

from rekeyd.core.model import AccountId
from rekeyd.errors import (
    AccessDeniedError,
    Error,
    LimitExceededError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    TemporaryError,
)

T = TypeVar("T")

# botocore 1.44.5, retries/throttling: what it counts as throttling, less what IAM means otherwise.
_THROTTLED = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "SlowDown",
        "PriorRequestNotComplete",
    }
)
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized", "AuthFailure"})
_MISSING = frozenset({"NoSuchEntity", "NoSuchEntityException"})
_LIMIT = frozenset({"LimitExceeded", "LimitExceededException"})
# Another change of the same user is under way.
_BUSY = frozenset({"ConcurrentModification", "EntityTemporarilyUnmodifiable"})
_BROKEN = frozenset({"InternalFailure", "InternalError", "ServiceFailure", "ServiceUnavailable", "RequestTimeout"})
_OWN_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "RequestExpired",
    }
)
# A page of something in between gives botocore the status number, "Unknown" or nothing for a code.
_REAL_CODE = re.compile(r"[A-Za-z][A-Za-z.]+\Z")

# What a call, the refresh of its credentials (RuntimeError), or the reading of an answer of another shape can raise.
FOREIGN = (
    BotoCoreError,
    ClientError,
    ResponseParserError,
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What was asked, for people."""

    action: str
    """As IAM policies spell it: `iam:CreateAccessKey`."""
    account_id: AccountId | None
    """None: the account of rekeyd's own credentials."""
    user_name: str | None = None

    def __str__(self) -> str:
        account = self.account_id or "rekeyd's own account"
        return f"{self.action} for {account}" + (f"/{self.user_name}" if self.user_name else "")


def ask(call: Call, function: Callable[[], T]) -> T:
    """A read. Raises only `rekeyd.errors`, without a cause."""
    try:
        return function()
    except FOREIGN as error:
        failure = read_failure(error, call)
    raise failure


def turned(page: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """How to ask for this page after that one. A list whose next page is the same one again would never end."""
    if page == before:
        raise TypeError("the next page of the list is the same one again")
    return page


def read_failure(error: Exception, call: Call) -> Error:
    """The error for a call that changed nothing, or that was never sent."""
    match error:
        case ClientError():
            return _answered(error, call)
        case ParamValidationError():
            return RefusedError(f"{call} was not sent: a parameter is not valid")
        case NoCredentialsError() | CredentialRetrievalError():
            return TemporaryError(f"{call} was not sent: no AWS credentials ({type(error).__name__})")
        case EndpointConnectionError() | ConnectTimeoutError():
            return TemporaryError(f"{call} was not sent: AWS cannot be reached ({type(error).__name__})")
        case _:
            return TemporaryError(f"{call} got no usable answer ({type(error).__name__})")


def change_failure(error: Exception, call: Call) -> Error:
    """The error for a change that was handed to the network."""
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError):
        return read_failure(error, call)
    if isinstance(error, ClientError) and _is_certain(error):
        return _answered(error, call)
    said = f"{code_of(error)} {status_of(error)}" if isinstance(error, ClientError) else type(error).__name__
    return OutcomeUnknownError(
        f"{call} was sent and its answer was lost ({said})", hint="look at the user's access keys before acting again"
    )


def code_of(error: Exception) -> str:
    """AWS's error code; empty when it is none."""
    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code") or "")


def status_of(error: ClientError) -> int:
    """HTTP status; 0 when unknown."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def _is_certain(error: ClientError) -> bool:
    """Whether AWS itself, and not something in between, said that it did nothing."""
    code = code_of(error)
    if _REAL_CODE.match(code) is None or code == "Unknown" or code in _BROKEN:
        return False
    return 400 <= status_of(error) < 500


def _answered(error: ClientError, call: Call) -> Error:
    code, status = code_of(error), status_of(error)
    refused = f"{call} was refused: {code}"
    if code in _THROTTLED:
        return TemporaryError(f"{call} was throttled: {code}")
    if code in _DENIED:
        return AccessDeniedError(refused, hint=f"allow {call.action} in the policy of rekeyd's role or user there")
    if code in _MISSING:
        return NotFoundError(refused)
    if code in _LIMIT:
        return LimitExceededError(refused)
    if code in _OWN_CREDENTIALS:
        return TemporaryError(refused, hint="rekeyd's own credentials are not accepted; look at them and at the clock")
    if code in _BUSY:
        return TemporaryError(refused)
    if status >= 500 or code in _BROKEN or _REAL_CODE.match(code) is None:
        return TemporaryError(f"{call} failed: {code} {status}")
    return RefusedError(refused)


def blames_own_credentials(error: Exception) -> bool:
    return code_of(error) in _OWN_CREDENTIALS
