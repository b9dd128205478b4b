"""What `rekeyd doctor` asks AWS and nothing else does: may we, and what time is it there."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from rekeyd.adapters.aws_errors import Call, ask
from rekeyd.adapters.aws_session import AwsSessions
from rekeyd.core.model import AccountId
from rekeyd.errors import Error

# `arn:aws:sts::111122223333:assumed-role/rekeyd/x` acts by the policies of `arn:aws:iam::111122223333:role/rekeyd`.
_ASSUMED = re.compile(r"arn:([a-z-]+):sts::(\d{12}):assumed-role/([^/]+)/.*")


def simulated(
    sessions: AwsSessions, account_id: AccountId, arn: str, actions: Sequence[str], resource: str
) -> Mapping[str, bool] | None:
    """Whether the policies of `arn` allow each action on the resource. None: it may not be asked, or not of this one
    (a role with a path has another ARN than its sessions show)."""

    def read() -> Mapping[str, bool]:
        said = sessions.reading(account_id).simulate_principal_policy(
            PolicySourceArn=policy_source(arn), ActionNames=list(actions), ResourceArns=[resource]
        )
        return {each["EvalActionName"]: each["EvalDecision"] == "allowed" for each in said["EvaluationResults"]}

    try:
        verdicts = ask(Call(action="iam:SimulatePrincipalPolicy", account_id=account_id), read)
    except Error:
        return None
    return verdicts if set(actions) <= set(verdicts) else None


def policy_source(arn: str) -> str:
    assumed = _ASSUMED.fullmatch(arn)
    return arn if assumed is None else f"arn:{assumed[1]}:iam::{assumed[2]}:role/{assumed[3]}"


def own_identity(sessions: AwsSessions) -> tuple[AccountId, str]:
    """Account and ARN of rekeyd's own credentials, whether or not that account is watched."""

    def read() -> tuple[AccountId, str]:
        said = sessions.own_sts().get_caller_identity()
        return AccountId(said["Account"]), said["Arn"]

    return ask(Call(action="sts:GetCallerIdentity", account_id=None), read)


def server_time(sessions: AwsSessions, account_id: AccountId) -> datetime | None:
    """By the Date header of STS, to the second. None: it sent none."""

    def read() -> datetime | None:
        said = sessions.sts(account_id).get_caller_identity()["ResponseMetadata"]["HTTPHeaders"].get("date")
        if said is None:
            return None
        at = parsedate_to_datetime(said)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)

    return ask(Call(action="sts:GetCallerIdentity", account_id=account_id), read)
