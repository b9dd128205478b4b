"""What an operator does with rights that the daemon never has: cut the sessions of a user, and lift that again.

    Operator(sessions, role_arn=…).check(account_id, not_as=…)    before anything is changed
    Operator(…).revoke(account_id, user_name, before=…)
    Operator(…).lift(account_id, user_name)

It acts by the role that the command names, else with the caller's own credentials; never as rekeyd itself does in that
account. Both changes may be repeated: they put, or remove, the same policy.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rekeyd.adapters.aws_errors import Call, ask
from rekeyd.adapters.aws_session import AwsSessions
from rekeyd.core.model import AccountId
from rekeyd.core.sessions import POLICY_NAME, revocation
from rekeyd.errors import AccessDeniedError, NotFoundError, StateError

if TYPE_CHECKING:
    from mypy_boto3_iam import IAMClient

_SESSION_SECONDS = 900
"""The least that AWS gives; each call makes a session of its own."""

_HINT = "the rights that the operator needs: rekeyd policy aws --for revoke-sessions; its role: --operator-role-arn"


class Operator:
    def __init__(self, sessions: AwsSessions, *, role_arn: str | None) -> None:
        """`role_arn` None: the credentials that the command itself was started with."""
        self._sessions = sessions
        self._role_arn = role_arn

    def check(self, account_id: AccountId, *, not_as: str) -> str:
        """Who acts: its ARN. StateError: it is of another account, or whom rekeyd acts as there (`not_as`)."""
        arn, account = self._identity(account_id)
        if account != account_id:
            raise StateError(
                f"the operator {arn} is of another account than {account_id}", hint="name a role: --operator-role-arn"
            )
        if without_session(arn) == without_session(not_as):
            raise StateError(
                f"the operator {arn} is whom rekeyd itself acts as in account {account_id}, and that one must not be "
                "able to write policies of users",
                hint=_HINT,
            )
        return arn

    def revoke(self, account_id: AccountId, user_name: str, *, before: datetime) -> None:
        """Deny everything to sessions of that user issued before this moment. A later moment replaces an earlier."""

        def put(iam: "IAMClient") -> Any:
            return iam.put_user_policy(UserName=user_name, PolicyName=POLICY_NAME, PolicyDocument=revocation(before))

        self._change("PutUserPolicy", account_id, user_name, put)

    def lift(self, account_id: AccountId, user_name: str) -> None:
        """A policy that is gone already is success."""

        def delete(iam: "IAMClient") -> Any:
            return iam.delete_user_policy(UserName=user_name, PolicyName=POLICY_NAME)

        try:
            self._change("DeleteUserPolicy", account_id, user_name, delete)
        except NotFoundError:
            return

    def _change(self, action: str, account_id: AccountId, user_name: str, send: Callable[["IAMClient"], Any]) -> None:
        call = Call(action=f"iam:{action}", account_id=account_id, user_name=user_name)

        def changed() -> None:
            with self._iam(account_id) as iam:
                # A page of a proxy parses as success, as these answers have no members; it has no request id.
                if not send(iam)["ResponseMetadata"].get("RequestId"):
                    raise TypeError("the answer has no request id")

        try:
            ask(call, changed)
        except AccessDeniedError as error:
            raise AccessDeniedError(error.message, hint=_HINT) from None

    def _identity(self, account_id: AccountId) -> tuple[str, str]:
        call = Call(action="sts:GetCallerIdentity", account_id=account_id)
        if self._role_arn is None:
            own: Any = ask(call, lambda: self._sessions.own_sts().get_caller_identity())
            return str(own["Arn"]), str(own["Account"])
        arn = str(self._assumed(self._role_arn, account_id)["AssumedRoleUser"]["Arn"])
        return arn, arn.split(":")[4]

    @contextmanager
    def _iam(self, account_id: AccountId) -> Iterator["IAMClient"]:
        if self._role_arn is None:
            yield self._sessions.own_iam()
            return
        iam = self._sessions.iam_with(self._assumed(self._role_arn, account_id)["Credentials"])
        try:
            yield iam
        finally:
            iam.close()

    def _assumed(self, role_arn: str, account_id: AccountId) -> Any:
        return assumed(self._sessions, role_arn, account_id, hint=_HINT)


def assumed(sessions: AwsSessions, role_arn: str, account_id: AccountId, *, hint: str) -> Any:
    """AssumeRole's answer, for an operator's role, asked for with the credentials of the command."""
    call = Call(action="sts:AssumeRole", account_id=account_id)
    try:
        return ask(
            call,
            lambda: sessions.own_sts().assume_role(
                RoleArn=role_arn,
                RoleSessionName=f"{sessions.session_name}-operator"[:64],
                DurationSeconds=_SESSION_SECONDS,
            ),
        )
    except AccessDeniedError as error:
        raise AccessDeniedError(error.message, hint=f"whether {role_arn} trusts the caller; {hint}") from None


def without_session(arn: str) -> str:
    """A role's sessions are the role."""
    return arn.rpartition("/")[0] if ":assumed-role/" in arn else arn
