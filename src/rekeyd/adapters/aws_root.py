"""Root users of member accounts, by centralized root access: sessions of at most 15 minutes that may do one task.

    RootAccess(sessions).enabled()             whether the organization has it
    RootAccess(sessions).look(account_id)      task IAMAuditRootUserCredentials
    RootAccess(sessions, operator_role_arn=…).refuse_rekeyd(account_id)
    RootAccess(…).delete_key(…)                task IAMDeleteRootUserCredentials; there is no undo

The management account has no such way in. IAM is called without a user's name: that means the root user itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from rekeyd.adapters.aws_errors import FOREIGN, Call, ask, change_failure, read_failure
from rekeyd.adapters.aws_operator import assumed, without_session
from rekeyd.adapters.aws_session import AwsSessions
from rekeyd.core.model import AccessKeyId, AccountId
from rekeyd.errors import AccessDeniedError, Error, NotFoundError, RefusedError, StateError
from rekeyd.ports import CallerIdentity

if TYPE_CHECKING:
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_sts import STSClient

T = TypeVar("T")

_AUDIT = "IAMAuditRootUserCredentials"
_DELETE = "IAMDeleteRootUserCredentials"
_SESSION_SECONDS = 900
"""The most that AWS gives."""

_HINT = "a role for people with the rights of `rekeyd policy aws --for root-cleanup`: --operator-role-arn"


@dataclass(frozen=True, slots=True, kw_only=True)
class RootKey:
    id: AccessKeyId | None
    """None: seen from outside; neither account summary nor credential report tells it."""
    active: bool | None = None
    """None, as `created_at`: only that there is a key is known, and nothing else of it."""
    created_at: datetime | None = None
    last_used_at: datetime | None = None
    """None: AWS has no use on record."""
    last_service: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RootUser:
    account_id: AccountId
    keys: tuple[RootKey, ...]
    password: bool | None
    """None: it cannot be told."""
    mfa: bool | None
    certificates: bool | None


class NotEnteredError(AccessDeniedError):
    """No root session is given: these credentials may not ask for one, or it is the management account's root user."""


class RootAccess:
    """With the credentials of the command, or by an operator's role. The daemon never makes one."""

    def __init__(self, sessions: AwsSessions, *, operator_role_arn: str | None = None) -> None:
        self._sessions = sessions
        self._role_arn = operator_role_arn

    def refuse_rekeyd(self, account_id: AccountId, *, enter: Callable[[AccountId], CallerIdentity]) -> None:
        """StateError: these are rekeyd's own credentials, or its role, which must not be able to delete root keys.

        `enter`: the way of rekeyd into the account. Whoever gets in by it without an operator's role is rekeyd, as
        far as AWS can tell.
        """
        try:
            rekeyd = enter(account_id).arn
        except (AccessDeniedError, NotFoundError):
            return  # nobody who may act as rekeyd there
        if self._role_arn is None:
            raise StateError(
                f"these credentials can act as rekeyd in account {account_id} ({without_session(rekeyd)}), and rekeyd "
                "must not be able to delete root access keys",
                hint=_HINT,
            )
        own: Any = ask(Call(action="sts:GetCallerIdentity", account_id=None), self._own_identity)
        arn = str(assumed(self._sessions, self._role_arn, account_id, hint=_HINT)["AssumedRoleUser"]["Arn"])
        if without_session(arn) in {without_session(rekeyd), without_session(own["Arn"])}:
            raise StateError(
                f"{self._role_arn} is rekeyd's own, and that one must not be able to delete root access keys",
                hint=_HINT,
            )

    def _own_identity(self) -> Any:
        return self._sessions.own_sts().get_caller_identity()

    def enabled(self) -> bool:
        """Whether credentials of members' root users can be managed here. AccessDeniedError: it may not be asked."""
        call = Call(action="iam:ListOrganizationsFeatures", account_id=None)
        try:
            features: Any = ask(call, lambda: self._sessions.own_iam().list_organizations_features())
        except NotFoundError:
            return False
        except RefusedError as error:
            if "OrganizationNotFound" in error.message or "ServiceAccessNotEnabled" in error.message:
                return False
            raise
        return "RootCredentialsManagement" in features.get("EnabledFeatures", [])

    def look(self, account_id: AccountId) -> RootUser:
        """NotEnteredError: there is no way in. It raises for whatever cannot be read: half a look must not be taken
        for "no keys"."""
        iam = self._iam(account_id, _AUDIT)
        try:
            summary: Any = self._read(account_id, "GetAccountSummary", lambda: iam.get_account_summary()["SummaryMap"])
            keys = self._keys(iam, account_id)
        finally:
            iam.close()
        return RootUser(
            account_id=account_id,
            keys=keys,
            password=_flag(summary, "AccountPasswordPresent"),
            mfa=_flag(summary, "AccountMFAEnabled"),
            certificates=_flag(summary, "AccountSigningCertificatesPresent"),
        )

    def keys(self, account_id: AccountId) -> tuple[RootKey, ...]:
        iam = self._iam(account_id, _AUDIT)
        try:
            return self._keys(iam, account_id)
        finally:
            iam.close()

    def delete_key(self, account_id: AccountId, key_id: AccessKeyId) -> None:
        """For good. A key that is gone already is success; OutcomeUnknownError: look again."""
        iam = self._iam(account_id, _DELETE)
        call = Call(action="iam:DeleteAccessKey", account_id=account_id)
        failure: Error | None = None
        try:
            answer: Any = iam.delete_access_key(AccessKeyId=key_id)
            if not answer["ResponseMetadata"].get("RequestId"):
                raise TypeError("the answer has no request id")
        except FOREIGN as error:
            failure = change_failure(error, call)
        finally:
            iam.close()
        if failure is not None and not isinstance(failure, NotFoundError):
            raise failure

    def _keys(self, iam: "IAMClient", account_id: AccountId) -> tuple[RootKey, ...]:
        listed: Any = self._read(account_id, "ListAccessKeys", lambda: iam.list_access_keys()["AccessKeyMetadata"])
        return tuple(self._key(iam, account_id, each) for each in listed)

    def _key(self, iam: "IAMClient", account_id: AccountId, listed: Any) -> RootKey:
        key_id = AccessKeyId(listed["AccessKeyId"])
        last: Any = self._read(
            account_id,
            "GetAccessKeyLastUsed",
            lambda: iam.get_access_key_last_used(AccessKeyId=key_id)["AccessKeyLastUsed"],
        )
        used_at = last.get("LastUsedDate")
        return RootKey(
            id=key_id,
            active=listed["Status"] == "Active",
            created_at=listed["CreateDate"].astimezone(UTC),
            last_used_at=None if used_at is None else used_at.astimezone(UTC),
            last_service=last.get("ServiceName") if used_at is not None else None,
        )

    def _iam(self, account_id: AccountId, task: str) -> "IAMClient":
        policy_arn = f"arn:{self._sessions.partition}:iam::aws:policy/root-task/{task}"
        call = Call(action="sts:AssumeRoot", account_id=account_id)
        try:
            with self._sts(account_id) as sts:
                answer: Any = ask(
                    call,
                    lambda: sts.assume_root(
                        TargetPrincipal=account_id,
                        TaskPolicyArn={"arn": policy_arn},
                        DurationSeconds=_SESSION_SECONDS,
                    )["Credentials"],
                )
        except AccessDeniedError as error:
            raise NotEnteredError(error.message, hint=error.hint) from None
        return self._sessions.iam_with(answer)

    @contextmanager
    def _sts(self, account_id: AccountId) -> Iterator["STSClient"]:
        if self._role_arn is None:
            yield self._sessions.own_sts()
            return
        sts = self._sessions.sts_with(assumed(self._sessions, self._role_arn, account_id, hint=_HINT)["Credentials"])
        try:
            yield sts
        finally:
            sts.close()

    def _read(self, account_id: AccountId, action: str, read: Callable[[], T]) -> T:
        call = Call(action=f"iam:{action}", account_id=account_id, user_name="root")
        try:
            return read()
        except FOREIGN as error:
            failure = read_failure(error, call)
        raise failure


def _flag(summary: Any, name: str) -> bool | None:
    return None if name not in summary else summary[name] != 0
