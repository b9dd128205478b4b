"""IAM of one account.

* Reads repeat by themselves; IsTruncated alone says whether there is more.
* A change is sent once, on a connection of its own, and only after its guard passed, which is the last thing
  before the request leaves, after the signature.
* What left and did not come back as an answer that shows success is OutcomeUnknownError, whatever went wrong.
* An answer without the members it must have is no answer; a missing list is never an empty one.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError

from rekeyd.adapters.aws_errors import (
    FOREIGN,
    Call,
    blames_own_credentials,
    change_failure,
    code_of,
    read_failure,
    turned,
)
from rekeyd.adapters.aws_health import AwsHealth
from rekeyd.adapters.aws_report import parse_report
from rekeyd.adapters.aws_rights import rights_of
from rekeyd.adapters.aws_session import AwsSessions
from rekeyd.adapters.aws_trail import AwsTrail
from rekeyd.core.events import Event
from rekeyd.core.model import (
    AccessKey,
    AccessKeyId,
    AccountId,
    CreateIntent,
    KeyStatus,
    LastUse,
    NeverUsed,
    Principal,
    Used,
    UserId,
    UseUnknown,
)
from rekeyd.core.rights import NO_PASSWORD_POLICY
from rekeyd.core.secret import Secret
from rekeyd.errors import Error, NotFoundError, OutcomeUnknownError, RefusedError, TemporaryError
from rekeyd.logs import get_logger
from rekeyd.ports import (
    AccountSummary,
    Clock,
    CreatedKey,
    CredentialReport,
    ExposureNotice,
    Guard,
    Pair,
    PasswordPolicy,
    UserRights,
)

if TYPE_CHECKING:
    from mypy_boto3_iam import IAMClient

log = get_logger()

T = TypeVar("T")

# Last token of the user agent of CreateAccessKey; CloudTrail keeps it.
OPERATION_TOKEN = "rekeyd-op/"  # noqa: S105 - a word of the user agent
# Some events have the user agent in brackets.
_OPERATION = re.compile(r"(?:^|[\s\[])rekeyd-op/([A-Za-z0-9._:-]+)\]?\s*\Z")
_OPERATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z", re.ASCII)

_PAGE = 1000
_CERTIFICATES = "AccountSigningCertificatesPresent"
"""The most that IAM gives at once."""
_REPORT_FIRST_WAIT = timedelta(seconds=1)
_REPORT_LONGEST_WAIT = timedelta(seconds=5)
_REPORT_NOT_YET = frozenset({"ReportInProgress", "CredentialReportNotReadyException"})
_REPORT_GONE = frozenset(
    {
        "ReportNotPresent",
        "ReportExpired",
        "CredentialReportNotPresentException",
        "CredentialReportExpiredException",
    }
)
# CloudTrail stamps an event with AWS's clock, an intent with ours.
_TRAIL_MARGIN = timedelta(minutes=1)


@dataclass(slots=True)
class _Departure:
    """The last word before one change leaves. What it raises keeps the request here."""

    guard: Guard
    token: str | None
    left: bool = False
    """Handed to the network."""
    stopped_by: BaseException | None = None

    def __call__(self, request: Any, **_: Any) -> None:
        """For botocore's `before-send`: the request is signed by now."""
        if self.left:
            raise OutcomeUnknownError("a change was about to be sent a second time")
        if self.token is not None:
            # botocore leaves the user agent out of the signature.
            agent = request.headers.get("User-Agent") or ""
            said = agent.decode() if isinstance(agent, bytes) else str(agent)
            request.headers["User-Agent"] = f"{said} {self.token}".strip()
        try:
            self.guard()
        except BaseException as error:
            self.stopped_by = error
            raise
        self.left = True


class AwsIam:
    """`rekeyd.ports.Iam`."""

    def __init__(self, sessions: AwsSessions, account_id: AccountId, *, clock: Clock) -> None:
        self.account_id = account_id
        self._sessions = sessions
        self._clock = clock
        self._told_of_no_plan = False

    # users and keys

    def get_user(self, user_name: str) -> Principal:
        def read(iam: "IAMClient") -> Principal:
            return self._principal(iam.get_user(UserName=user_name)["User"])

        return self._read("GetUser", read, user_name)

    def list_users(self) -> tuple[Principal, ...]:
        def read(iam: "IAMClient") -> tuple[Principal, ...]:
            def page(marker: dict[str, str]) -> Any:
                return iam.get_account_authorization_details(Filter=["User"], MaxItems=_PAGE, **marker)

            return tuple(self._principal(user) for user in _pages(page, "UserDetailList"))

        return self._read("GetAccountAuthorizationDetails", read)

    def list_access_keys(self, user_name: str) -> tuple[AccessKey, ...]:
        def read(iam: "IAMClient") -> tuple[AccessKey, ...]:
            def page(marker: dict[str, str]) -> Any:
                return iam.list_access_keys(UserName=user_name, MaxItems=_PAGE, **marker)

            return tuple(_access_key(key) for key in _pages(page, "AccessKeyMetadata"))

        return self._read("ListAccessKeys", read, user_name)

    def last_use(self, key_id: AccessKeyId) -> LastUse:
        def read(iam: "IAMClient") -> LastUse:
            last = iam.get_access_key_last_used(AccessKeyId=key_id)["AccessKeyLastUsed"]
            # Its presence tells an answer from a page that merely parses.
            service, region = last["ServiceName"], last["Region"]
            used_at: datetime | None = last.get("LastUsedDate")
            if used_at is None:
                return NeverUsed()
            return Used(at=used_at.astimezone(UTC), service=service, region=region)

        try:
            return self._read("GetAccessKeyLastUsed", read)
        except Error as error:
            return UseUnknown(error.message)

    def owner_of_key(self, key_id: AccessKeyId) -> str | None:
        """The user's name; None: the root user. NotFoundError: no such key in this account."""

        def read(iam: "IAMClient") -> str | None:
            answer = iam.get_access_key_last_used(AccessKeyId=key_id)
            if "AccessKeyLastUsed" not in answer:
                raise TypeError("the answer has no last use")
            return answer.get("UserName")

        return self._read("GetAccessKeyLastUsed", read)

    def create_access_key(self, user_name: str, *, operation_id: str, guard: Guard) -> CreatedKey:
        """Sent exactly once; `operation_id` becomes the last token of the user agent.

        Raises `ValueError` for an operation id that cannot stand there.
        """
        if _OPERATION_ID.match(operation_id) is None:
            raise ValueError("an operation id is made of letters, digits and . _ : -")

        def send(iam: "IAMClient") -> Any:
            return iam.create_access_key(UserName=user_name)

        def understand(answer: Any) -> CreatedKey:
            key = answer["AccessKey"]
            pair = Pair(
                access_key_id=AccessKeyId(_text(key["AccessKeyId"])),
                secret_access_key=Secret(_text(key["SecretAccessKey"])),
            )
            # The only member that IAM's model does not require.
            created_at: datetime = key.get("CreateDate") or self._clock.now()
            return CreatedKey(pair=pair, created_at=created_at.astimezone(UTC), user_name=_text(key["UserName"]))

        token = OPERATION_TOKEN + operation_id
        return self._change("CreateAccessKey", user_name, send, understand, guard=guard, token=token)

    def update_access_key(self, user_name: str, key_id: AccessKeyId, status: KeyStatus, *, guard: Guard) -> None:
        def send(iam: "IAMClient") -> Any:
            return iam.update_access_key(UserName=user_name, AccessKeyId=key_id, Status=status.value)

        self._change("UpdateAccessKey", user_name, send, _require_request_id, guard=guard)

    def delete_access_key(self, user_name: str, key_id: AccessKeyId, *, guard: Guard) -> None:
        def send(iam: "IAMClient") -> Any:
            return iam.delete_access_key(UserName=user_name, AccessKeyId=key_id)

        try:
            self._change("DeleteAccessKey", user_name, send, _require_request_id, guard=guard)
        except NotFoundError:
            return

    # the account

    def account_summary(self) -> AccountSummary:
        def read(iam: "IAMClient") -> AccountSummary:
            seen: Mapping[str, int] = iam.get_account_summary()["SummaryMap"]  # type: ignore[assignment]
            return AccountSummary(
                root_access_keys_present=seen["AccountAccessKeysPresent"] != 0,
                root_mfa_enabled=seen["AccountMFAEnabled"] != 0,
                # Newer than the rest; where it is missing a password has to be assumed.
                root_password_present=seen.get("AccountPasswordPresent", 1) != 0,
                users=seen.get("Users", 0),
                root_certificates_present=None if (signed := seen.get(_CERTIFICATES)) is None else signed != 0,
            )

        return self._read("GetAccountSummary", read)

    def password_policy(self) -> PasswordPolicy:
        def read(iam: "IAMClient") -> PasswordPolicy:
            said = iam.get_account_password_policy()["PasswordPolicy"]
            return PasswordPolicy(
                minimum_length=said.get("MinimumPasswordLength", NO_PASSWORD_POLICY.minimum_length),
                reuse_prevention=said.get("PasswordReusePrevention", 0),
            )

        try:
            return self._read("GetAccountPasswordPolicy", read)
        except NotFoundError:
            return NO_PASSWORD_POLICY

    def user_rights(self) -> Mapping[str, UserRights]:
        def read(iam: "IAMClient") -> Mapping[str, UserRights]:
            users: list[Any] = []
            groups: list[Any] = []
            policies: list[Any] = []
            marker: dict[str, str] = {}
            while True:
                answer: Any = iam.get_account_authorization_details(
                    Filter=["User", "Group", "LocalManagedPolicy"],
                    MaxItems=_PAGE,
                    **marker,
                )
                users += answer["UserDetailList"]
                groups += answer["GroupDetailList"]
                policies += answer["Policies"]
                if not answer.get("IsTruncated"):
                    return rights_of(users, groups, policies)
                marker = turned({"Marker": _text(answer["Marker"])}, marker)

        return self._read("GetAccountAuthorizationDetails", read)

    def root_used_at(self, *, since: datetime) -> datetime | None:
        return AwsTrail(self._sessions, self.account_id).root_used_at(since=since)

    def exposure_notices(self) -> tuple[ExposureNotice, ...] | None:
        if not self._sessions.settings.health:
            return None
        notices = AwsHealth(self._sessions, self.account_id, self).notices()
        if notices is None and not self._told_of_no_plan:
            log.info(Event.HEALTH_UNAVAILABLE, account_id=self.account_id)
        self._told_of_no_plan = notices is None
        return notices

    def account_alias(self) -> str | None:
        """None also when rekeyd may not ask: it is for people's eyes only."""

        def read(iam: "IAMClient") -> str | None:
            return next(iter(iam.list_account_aliases()["AccountAliases"]), None)

        try:
            return self._read("ListAccountAliases", read)
        except RefusedError:
            return None

    def credential_report(self, *, max_wait: timedelta) -> CredentialReport:
        """TemporaryError when it is still being made after `max_wait`."""
        give_up = self._clock.monotonic() + max_wait.total_seconds()
        pause = _REPORT_FIRST_WAIT
        while True:
            report = self._report_if_ready()
            if report is not None:
                return report
            left = give_up - self._clock.monotonic()
            if left <= 0:
                raise TemporaryError(
                    f"{self._call('GetCredentialReport')}: still being made after {max_wait.total_seconds():g} s"
                )
            self._clock.sleep(min(pause, timedelta(seconds=left)))
            pause = min(pause * 2, _REPORT_LONGEST_WAIT)

    def who_created(self, intents: Sequence[CreateIntent], user_name: str) -> Mapping[AccessKeyId, str | None] | None:
        if not intents:
            return {}
        ours = frozenset(intent.operation_id for intent in intents)
        since = min(intent.sent_at for intent in intents) - _TRAIL_MARGIN
        try:
            return self._read_trail(ours, since, user_name)
        except Error:
            return None

    # below: how it is done

    def _read_trail(self, ours: frozenset[str], since: datetime, user_name: str) -> Mapping[AccessKeyId, str | None]:
        call = self._call("LookupEvents", user_name, service="cloudtrail")

        def read() -> Mapping[AccessKeyId, str | None]:
            trail = self._sessions.trail(self.account_id)
            found: dict[AccessKeyId, str | None] = {}
            more: dict[str, Any] = {}
            while True:
                page = trail.lookup_events(
                    LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "CreateAccessKey"}],
                    StartTime=since,
                    **more,
                )
                for event in page["Events"]:
                    created = _created_key(event["CloudTrailEvent"], user_name)
                    if created is not None:
                        key_id, operation_id = created
                        found[key_id] = operation_id if operation_id in ours else None
                if not page.get("NextToken"):
                    return found
                more = turned({"NextToken": page["NextToken"]}, more)

        return self._ask(call, read)

    def _report_if_ready(self) -> CredentialReport | None:
        """None: not ready yet."""
        call = self._call("GenerateCredentialReport")

        def read() -> CredentialReport | None:
            iam = self._sessions.reading(self.account_id)
            try:
                if iam.generate_credential_report()["State"] != "COMPLETE":
                    return None
                answer = iam.get_credential_report()
            except ClientError as error:
                # LimitExceeded: somebody else asks for it just now.
                if code_of(error) in _REPORT_NOT_YET | _REPORT_GONE | {"LimitExceeded"}:
                    return None
                raise
            return parse_report(answer["Content"], generated_at=answer["GeneratedTime"].astimezone(UTC))

        return self._ask(call, read)

    def _principal(self, user: Any) -> Principal:
        return Principal(
            account_id=self.account_id,
            user_name=_text(user["UserName"]),
            user_id=UserId(_text(user["UserId"])),
            path=user.get("Path", "/"),
            arn=_text(user["Arn"]),
            tags={tag["Key"]: tag["Value"] for tag in user.get("Tags", [])},
        )

    def _call(self, action: str, user_name: str | None = None, *, service: str = "iam") -> Call:
        return Call(action=f"{service}:{action}", account_id=self.account_id, user_name=user_name)

    def _read(self, action: str, read: Callable[["IAMClient"], T], user_name: str | None = None) -> T:
        return self._ask(self._call(action, user_name), lambda: read(self._sessions.reading(self.account_id)))

    def _ask(self, call: Call, function: Callable[[], T]) -> T:
        try:
            return function()
        except FOREIGN as error:
            if blames_own_credentials(error):
                self._sessions.renew()
            failure = read_failure(error, call)
        raise failure

    def _change(
        self,
        action: str,
        user_name: str,
        send: Callable[["IAMClient"], Any],
        understand: Callable[[Any], T],
        *,
        guard: Guard,
        token: str | None = None,
    ) -> T:
        call = self._call(action, user_name)
        departure = _Departure(guard, token)
        client = self._sessions.changing(self.account_id)
        client.meta.events.register_last("before-send.iam.*", departure)
        try:
            return understand(send(client))
        except Exception as error:  # noqa: BLE001 - after it left, whatever is not understood is not known
            if blames_own_credentials(error):
                self._sessions.renew()
            if departure.left:
                failure: BaseException = change_failure(error, call)
            elif departure.stopped_by is not None:
                failure = departure.stopped_by
            else:
                failure = error if isinstance(error, Error) else read_failure(error, call)
        finally:
            client.close()
        raise failure


def _pages(page: Callable[[dict[str, str]], Any], member: str) -> Iterator[Any]:
    marker: dict[str, str] = {}
    while True:
        answer = page(marker)
        # Indexed: a missing list is a broken answer, not "none".
        yield from answer[member]
        if not answer.get("IsTruncated"):
            return
        marker = turned({"Marker": _text(answer["Marker"])}, marker)


def _access_key(key: Any) -> AccessKey:
    status = key["Status"]
    known = status in {known.value for known in KeyStatus}
    return AccessKey(
        id=AccessKeyId(_text(key["AccessKeyId"])),
        # A status that IAM invents later is one that rekeyd does not act on, and that is EXPIRED.
        status=KeyStatus(status) if known else KeyStatus.EXPIRED,
        created_at=key["CreateDate"].astimezone(UTC),
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("a text is missing in the answer")
    return value


def _require_request_id(answer: Any) -> None:
    """A page of a proxy parses as success, as these answers have no members; it has no request id."""
    if not answer["ResponseMetadata"].get("RequestId"):
        raise TypeError("the answer has no request id")


def _created_key(event: str, user_name: str) -> tuple[AccessKeyId, str | None] | None:
    """The key that a CreateAccessKey event made for that user, and the operation id that it carries."""
    seen = json.loads(event)
    made = (seen.get("responseElements") or {}).get("accessKey")
    if seen.get("errorCode") or not made or str(made["userName"]).casefold() != user_name.casefold():
        return None
    carried = _OPERATION.search(str(seen.get("userAgent") or ""))
    return AccessKeyId(_text(made["accessKeyId"])), carried.group(1) if carried else None
