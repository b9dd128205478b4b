"""What `rekeyd doctor` asks AWS and nothing else does: may we, and what time is it there."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from rekeyd.adapters.aws_errors import Call, ask, turned
from rekeyd.adapters.aws_session import AwsSessions
from rekeyd.core.model import AccountId, Principal
from rekeyd.errors import Error

if TYPE_CHECKING:
    from mypy_boto3_iam.type_defs import ContextEntryTypeDef

# `arn:aws:sts::111122223333:assumed-role/rekeyd/x` acts by the policies of `arn:aws:iam::111122223333:role/rekeyd`.
_ASSUMED = re.compile(r"arn:([a-z-]+):sts::(\d{12}):assumed-role/([^/]+)/.*")


def simulated(
    sessions: AwsSessions,
    account_id: AccountId,
    source: str,
    actions: Sequence[str],
    resource: str,
    *,
    tags: Mapping[str, str] | None = None,
) -> Mapping[str, bool] | None:
    """Whether the policies of `source`, a user or a role, allow each action on the resource. None: they may not be
    asked for, or there is no such source (a role with a path has another ARN than its sessions show).

    `tags` of the resource: the simulation does not look them up, and denies what a policy allows by tag without them.
    """

    def page(marker: dict[str, Any]) -> Any:
        return sessions.reading(account_id).simulate_principal_policy(
            PolicySourceArn=source,
            ActionNames=list(actions),
            ResourceArns=[resource],
            ContextEntries=[_tag(key, value) for key, value in (tags or {}).items()],
            **marker,
        )

    def read() -> Mapping[str, bool]:
        verdicts: dict[str, bool] = {}
        marker: dict[str, Any] = {}
        while True:
            answer = page(marker)
            for each in answer["EvaluationResults"]:
                verdicts[each["EvalActionName"]] = each["EvalDecision"] == "allowed"
            if not answer.get("IsTruncated"):
                return verdicts
            marker = turned({"Marker": answer["Marker"]}, marker)

    try:
        verdicts = ask(Call(action="iam:SimulatePrincipalPolicy", account_id=account_id), read)
    except Error:
        return None
    return verdicts if set(actions) <= set(verdicts) else None


def _tag(key: str, value: str) -> "ContextEntryTypeDef":
    return {"ContextKeyName": f"aws:ResourceTag/{key}", "ContextKeyType": "string", "ContextKeyValues": [value]}


def policy_source(arn: str) -> str:
    assumed = _ASSUMED.fullmatch(arn)
    return arn if assumed is None else f"arn:{assumed[1]}:iam::{assumed[2]}:role/{assumed[3]}"


def own_identity(sessions: AwsSessions) -> tuple[AccountId, str]:
    """Account and ARN of rekeyd's own credentials, whether or not that account is watched."""

    def read() -> tuple[AccountId, str]:
        said = sessions.own_sts().get_caller_identity()
        return AccountId(said["Account"]), said["Arn"]

    return ask(Call(action="sts:GetCallerIdentity", account_id=None), read)


def account_alias(sessions: AwsSessions, account_id: AccountId) -> None:
    """Raises when it may not be asked for, which the port's own question takes for an account without an alias."""

    def read() -> None:
        sessions.reading(account_id).list_account_aliases()["AccountAliases"]

    ask(Call(action="iam:ListAccountAliases", account_id=account_id), read)


def user_tags(sessions: AwsSessions, user: Principal) -> None:
    """Raises when they may not be listed."""

    def read() -> None:
        sessions.reading(user.account_id).list_user_tags(UserName=user.user_name)["Tags"]

    ask(Call(action="iam:ListUserTags", account_id=user.account_id, user_name=user.user_name), read)


def server_time(sessions: AwsSessions, account_id: AccountId | None) -> datetime | None:
    """By the Date header of STS, to the second. None: it sent none. A refusal has one too: it may be for the time.

    `account_id` None: asked with rekeyd's own credentials.
    """

    def read() -> datetime | None:
        sts = sessions.own_sts() if account_id is None else sessions.sts(account_id)
        try:
            answer: Any = sts.get_caller_identity()
        except ClientError as error:
            answer = error.response
            if _date(answer) is None:
                raise
        said = _date(answer)
        if said is None:
            return None
        at = parsedate_to_datetime(said)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)

    return ask(Call(action="sts:GetCallerIdentity", account_id=account_id), read)


def _date(answer: Any) -> str | None:
    found: str | None = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return found
