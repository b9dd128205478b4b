"""Whom rekeyd acts as, and whether AWS honours a pair.

    prove(pair, principal) -> accepted | other principal | wrong secret | not honoured | unavailable

Each proof is one signature made for it and one request, never repeated: it is the caller who decides how many
successes or refusals count. Only AWS's own word is a verdict; whatever else happens is `unavailable`.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from botocore.auth import SigV4Auth
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from rekeyd.adapters.aws_errors import FOREIGN, Call, ask, code_of
from rekeyd.adapters.aws_session import AwsSessions
from rekeyd.core.model import AccessKeyId, AccountId, Principal, Proof
from rekeyd.errors import Error
from rekeyd.ports import CallerIdentity, Pair

if TYPE_CHECKING:
    from mypy_boto3_sts import STSClient

# AWS answers a signature that is too old (5 to 15 minutes, by its own messages) with the very code of a wrong secret.
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
_CLOCKS_APART = timedelta(minutes=4)
_ABOUT_TIME = ("Signature expired", "Signature not yet current")


@dataclass(slots=True)
class _Probe:
    pair: Pair
    region: str
    signed_at: datetime | None = None


_PROBE: ContextVar[_Probe | None] = ContextVar("rekeyd_probe", default=None)


class AwsSts:
    """`rekeyd.ports.Sts`."""

    def __init__(self, sessions: AwsSessions) -> None:
        self._sessions = sessions

    def caller_identity(self, account_id: AccountId) -> CallerIdentity:
        def read() -> CallerIdentity:
            said = self._sessions.sts(account_id).get_caller_identity()
            return CallerIdentity(account_id=AccountId(said["Account"]), arn=said["Arn"], user_id=said["UserId"])

        return ask(Call(action="sts:GetCallerIdentity", account_id=account_id), read)

    def account_of_key(self, key_id: AccessKeyId) -> AccountId:
        """Which account an access key belongs to, whosever it is. RefusedError: AWS knows no such key."""
        call = Call(action="sts:GetAccessKeyInfo", account_id=None)
        return ask(call, lambda: AccountId(self._sessions.own_sts().get_access_key_info(AccessKeyId=key_id)["Account"]))

    def credentials_expire_at(self, account_id: AccountId) -> datetime | None:
        """The end of rekeyd's own credentials is also the end of every role that they assume."""
        self._sessions.role_arn(account_id)
        call = Call(action="sts:GetCallerIdentity", account_id=account_id)
        return ask(call, self._sessions.own_credentials_end_at)

    def prove(self, pair: Pair, principal: Principal, *, region: str | None = None) -> Proof:
        where = region or self._sessions.settings.region
        try:
            client = self._sessions.probe(where, _sign_with_pair)
        except Error:
            return Proof.UNAVAILABLE
        probe = _Probe(pair, where)
        before = _PROBE.set(probe)
        try:
            said = client.get_caller_identity()
            same = said["UserId"] == principal.user_id and said["Arn"] == principal.arn
        except ClientError as error:
            return _verdict(error, probe.signed_at)
        except FOREIGN:
            return Proof.UNAVAILABLE
        finally:
            _PROBE.reset(before)
        return Proof.ACCEPTED if same else Proof.OTHER_PRINCIPAL


def _sign_with_pair(sts: "STSClient") -> None:
    sts.meta.events.register("request-created.sts.GetCallerIdentity", _sign)


def _sign(request: Any, **_: Any) -> None:
    probe = _PROBE.get()
    if probe is None:
        raise RuntimeError("a proof without a pair")
    credentials = Credentials(probe.pair.access_key_id, probe.pair.secret_access_key.reveal())
    SigV4Auth(credentials, "sts", probe.region).add_auth(request)
    probe.signed_at = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def _verdict(error: ClientError, signed_at: datetime | None) -> Proof:
    match code_of(error):
        case "InvalidClientTokenId":
            return Proof.NOT_HONOURED
        case "SignatureDoesNotMatch" if not _is_about_time(error, signed_at):
            return Proof.WRONG_SECRET
        case _:
            return Proof.UNAVAILABLE


def _is_about_time(error: ClientError, signed_at: datetime | None) -> bool:
    """Messages change, hence the second look at AWS's own clock; without one there is no verdict."""
    if str(error.response.get("Error", {}).get("Message", "")).startswith(_ABOUT_TIME):
        return True
    said: Any = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if said is None or signed_at is None:
        return True
    try:
        answered_at = parsedate_to_datetime(said)
    except ValueError:
        return True
    if answered_at.tzinfo is None:
        answered_at = answered_at.replace(tzinfo=UTC)
    return abs(answered_at - signed_at) > _CLOCKS_APART
