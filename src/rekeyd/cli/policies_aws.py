"""The least IAM policy that this configuration needs, as IAM's JSON.

    work_policy(config, partition, account_id) -> Printed     for the role or user that works in an account
    hub_policy(config, partition) -> Printed                  for rekeyd's own credentials, which enter the accounts

Selection rules are expressed as far as IAM's language reaches; what it cannot say stands in the notes, and then the
policy is wider than the configuration (narrower only in that IAM heeds the case of names). An exclusion becomes a
Deny only where it cannot hit a user that another policy manages. Account ids, names and paths come from the
configuration, escaped.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rekeyd.adapters.queue_name import queue_name
from rekeyd.config.models import Config, FleetMode, MatchSettings, PolicySettings
from rekeyd.core.policy import Attribution

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html: a managed policy, without white space
MAX_POLICY_CHARACTERS = 6144

_SCAN = (
    "iam:GenerateCredentialReport",
    "iam:GetCredentialReport",
    "iam:GetAccountSummary",
    "iam:GetAccountAuthorizationDetails",
    "iam:GetAccountPasswordPolicy",
    "iam:ListAccountAliases",
)
_READ = ("iam:GetUser", "iam:ListUserTags", "iam:ListAccessKeys", "iam:GetAccessKeyLastUsed")
_CHANGE = ("iam:CreateAccessKey", "iam:UpdateAccessKey", "iam:DeleteAccessKey")
HEALTH_ACTIONS = ("health:DescribeEvents", "health:DescribeAffectedEntities")
QUEUE_ACTIONS = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
# Whoever may tag or rename a user could bring anybody into the scope of this policy.
_WIDENING = (
    "iam:TagUser",
    "iam:UntagUser",
    "iam:UpdateUser",
    "iam:CreateUser",
    "iam:Put*Policy",
    "iam:Attach*Policy",
    "iam:CreateLoginProfile",
    "iam:UpdateLoginProfile",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    document: str
    notes: tuple[str, ...]
    """For people: what the document could not express, and where it belongs."""


def work_policy(config: Config, partition: str, account_id: str | None) -> Printed:
    """`account_id` None: of any account; the ARNs then leave it open, which an identity policy may."""
    arns = _Arns(partition=partition, account_id=account_id or "*")
    notes: list[str] = []
    statements: list[dict[str, Any]] = [
        _statement("Scan", "Allow", _SCAN, ("*",)),
        _statement("ReadKeys", "Allow", _READ, (arns.user("/", "*"),)),
    ]
    # Use of the root user is looked up whether or not created keys are.
    sid = "Attribute" if config.orphans.attribution is Attribution.CLOUDTRAIL else "SeeRootUse"
    statements.append(_statement(sid, "Allow", ("cloudtrail:LookupEvents",), ("*",)))
    if config.scan.health:
        statements.append(_statement("SeeExposedKeys", "Allow", HEALTH_ACTIONS, ("*",)))
    if not _entered(config, account_id):
        statements += _own(config, partition)
    if config.fleet.mode is FleetMode.OBSERVE:
        notes.append('fleet.mode is "observe": this policy only reads')
        return _printed(statements, notes)
    policies = [p for p in config.policies if _concerns(p, account_id)]
    for number, policy in enumerate(policies, 1):
        statements.append(_rotate(f"Rotate{number}", policy, arns, notes))
    if policies:
        # Only `rekeyd doctor` asks, and only what these rights are.
        asked = ("iam:SimulatePrincipalPolicy",)
        statements.append(_statement("AskForOwnRights", "Allow", asked, _itself(config, arns)))
    else:
        notes.append("no policy manages users here, so nothing may be changed")
    statements += _denied(policies, arns, notes)
    return _printed(statements, notes)


def hub_policy(config: Config, partition: str) -> Printed:
    """Entering the other accounts, and what rekeyd does with its own credentials."""
    roles = [account.role_arn for account in config.aws.accounts if account.role_arn is not None]
    statements: list[dict[str, Any]] = []
    notes = ["this is for rekeyd's own credentials; each role they enter needs `rekeyd policy aws --account ID`"]
    organization = config.aws.organization
    if organization is not None:
        statements.append(_statement("ListAccounts", "Allow", ("organizations:ListAccounts",), ("*",)))
        roles.append(f"arn:{partition}:iam::*:role/{organization.role_name}")
    if roles:
        statements.append(_statement("EnterAccounts", "Allow", ("sts:AssumeRole",), roles))
    else:
        notes.append("no account is entered by a role, so nothing is needed for that")
    return _printed(statements + _own(config, partition), notes)


def _entered(config: Config, account_id: str | None) -> bool:
    """Whether it is a role there that this is for, and not rekeyd's own credentials."""
    if config.aws.organization is not None:
        return True
    roles = {account.id: account.role_arn for account in config.aws.accounts}
    if account_id is None or account_id not in roles:
        return any(role is not None for role in roles.values())
    return roles[account_id] is not None


def _itself(config: Config, arns: "_Arns") -> list[str]:
    """The role or the user that the policy is for. A role of unknown name cannot be told from another."""
    organization = config.aws.organization
    if organization is not None:
        return [f"arn:{arns.partition}:iam::{arns.account_id}:role/{organization.role_name}"]
    roles = [each.role_arn for each in config.aws.accounts if arns.account_id in (each.id, "*")]
    itself = [role for role in roles if role is not None]
    return [*itself, *arns.own_user] if None in roles or not roles else itself


def _own(config: Config, partition: str) -> list[dict[str, Any]]:
    """What rekeyd does with its own credentials, whichever accounts it watches."""
    # For `rekeyd alarms raise exposed` with a key that the journal does not know; it tells an account id, no more.
    statements = [_statement("TellAccountOfKey", "Allow", ("sts:GetAccessKeyInfo",), ("*",))]
    if config.alarms.sns_topic_arn is not None:
        statements.append(_statement("SendAlarms", "Allow", ("sns:Publish",), (config.alarms.sns_topic_arn,)))
    if config.events.queue_url is not None:
        arn = queue_name(config.events.queue_url).arn(partition, config.events.region or config.aws.region)
        statements.append(_statement("ReadEvents", "Allow", QUEUE_ACTIONS, (arn,)))
    return statements


def root_cleanup_policy(partition: str) -> Printed:
    """For the person who runs `rekeyd root`; in the management account, or the delegated administrator's."""
    tasks = [
        f"arn:{partition}:iam::aws:policy/root-task/{task}"
        for task in ("IAMAuditRootUserCredentials", "IAMDeleteRootUserCredentials")
    ]
    enter = _statement("EnterRootUsersForTheseTasks", "Allow", ("sts:AssumeRoot",), (f"arn:{partition}:iam::*:root",))
    enter["Condition"] = {"ArnEquals": {"sts:TaskPolicyArn": tasks}}
    look = _statement("Look", "Allow", ("iam:ListOrganizationsFeatures", "organizations:ListAccounts"), ("*",))
    return _printed(
        [enter, look],
        ["a role for people, never the daemon's: root access keys that it deletes cannot be brought back"],
    )


def revoke_sessions_policy(partition: str, account_id: str | None) -> Printed:
    """For the person who cuts sessions of an exposed key. PutUserPolicy is a way to any right: guard it well."""
    arns = _Arns(partition=partition, account_id=account_id or "*")
    actions = ("iam:PutUserPolicy", "iam:DeleteUserPolicy", "iam:GetUserPolicy")
    return _printed(
        [_statement("CutSessions", "Allow", actions, (arns.user("/", "*"),))],
        [
            "a role for people, never the daemon's: whoever may write a user's policies can give that user any right",
            "grant it for the time of an incident, and put a permissions boundary on it",
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arns:
    partition: str
    account_id: str

    def user(self, path: str, name: str) -> str:
        return f"arn:{self.partition}:iam::{self.account_id}:user{path}{name}"

    @property
    def own_user(self) -> tuple[str, str]:
        """Of whoever calls. `${aws:username}` is empty for a role: then it is nobody."""
        return (self.user("/", "${aws:username}"), self.user("/", "*/${aws:username}"))

    @property
    def root(self) -> str:
        return f"arn:{self.partition}:iam::*:root"


def _rotate(sid: str, policy: PolicySettings, arns: _Arns, notes: list[str]) -> dict[str, Any]:
    statement = _statement(sid, "Allow", _CHANGE, tuple(_resources(policy.match, arns, policy.name, notes)))
    tags = policy.match.tags or {}
    if tags:
        statement["Condition"] = {"StringLike": {f"aws:ResourceTag/{key}": _glob(glob) for key, glob in tags.items()}}
    return statement


def _resources(match: MatchSettings, arns: _Arns, name: str, notes: list[str]) -> Iterator[str]:
    """Every combination of path and name. An ARN carries the path, so a name may stand below any of them."""
    users, paths = match.users or ("*",), match.paths or ("/",)
    for glob in users:
        if "[" in glob:
            notes.append(f'policy "{name}": IAM has no [ ], so "{glob}" allows any character there')
        if any(sign.isalpha() for sign in glob):
            notes.append(f'policy "{name}": IAM heeds case in "{glob}", and rekeyd does not')
    for path in paths:
        for glob in users:
            yield arns.user(_literal(path), _glob(glob))
            if glob != "*":
                yield arns.user(_literal(path), f"*/{_glob(glob)}")


def _denied(policies: Sequence[PolicySettings], arns: _Arns, notes: list[str]) -> list[dict[str, Any]]:
    # A role has no access keys of its own.
    statements = [
        _statement("NeverRootNorItself", "Deny", _CHANGE, (arns.root, *arns.own_user)),
        _statement("NeverWidenItself", "Deny", _WIDENING, ("*",)),
    ]
    for policy in policies:
        exclude = policy.exclude
        if not (exclude.users or exclude.paths or exclude.tags):
            continue
        if len(policies) > 1:
            notes.append(
                f'policy "{policy.name}": what it excludes is not denied here, since another policy may manage it'
            )
            continue
        resources: list[str] = []
        if exclude.users:
            resources += _resources(MatchSettings(users=exclude.users), arns, policy.name, notes)
        resources += [arns.user(_literal(path), "*") for path in exclude.paths or ()]
        if resources:
            statements.append(_statement("NeverExcluded", "Deny", _CHANGE, resources))
        for number, (key, glob) in enumerate((exclude.tags or {}).items(), 1):
            tagged = _statement(f"NeverTagged{number}", "Deny", _CHANGE, (arns.user("/", "*"),))
            tagged["Condition"] = {"StringLike": {f"aws:ResourceTag/{key}": _glob(glob)}}
            statements.append(tagged)
    return statements


def _concerns(policy: PolicySettings, account_id: str | None) -> bool:
    if account_id is None:
        return True
    wanted, left = policy.match.accounts, policy.exclude.accounts or ()
    return (wanted is None or account_id in wanted) and account_id not in left


def _literal(text: str) -> str:
    """IAM's own spelling of a sign that would mean something: `${*}`, `${?}`, `${$}`."""
    return re.sub(r"[*?$]", lambda found: f"${{{found.group()}}}", text)


def _glob(text: str) -> str:
    """A glob as IAM knows it: `*` and `?` mean the same; a class becomes `?`; everything else stands for itself."""
    return re.sub(r"\[!?\]?[^\]]*\]", "?", text).replace("$", "${$}")


def _statement(sid: str, effect: str, actions: Sequence[str], resources: Sequence[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": effect, "Action": list(actions), "Resource": list(dict.fromkeys(resources))}


def _printed(statements: Sequence[dict[str, Any]], notes: Sequence[str]) -> Printed:
    content = {"Version": "2012-10-17", "Statement": list(statements)}
    size = len(json.dumps(content, separators=(",", ":")))
    too_long = (
        [f"it has {size} characters, and IAM takes {MAX_POLICY_CHARACTERS}: split it, or select users by a tag"]
        if size > MAX_POLICY_CHARACTERS
        else []
    )
    return Printed(document=json.dumps(content, indent=2) + "\n", notes=tuple(dict.fromkeys([*notes, *too_long])))
