"""Who has administrator rights, as far as that can be told from account authorization details, and what AWS distrusts.

A user counts as an administrator when one of its policies (attached, inline, or of one of its groups)
* is AWS's own AdministratorAccess or IAMFullAccess, by its ARN, or
* has a statement that allows `*`, `*:*` or `iam:*`, or all but a list, on every resource, with or without a condition.

Not judged: denies, permissions boundaries, service control policies, and rights that add up to administrator rights
only together. The first three can only make a user weaker than said here; the last one stronger.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from urllib.parse import unquote

from rekeyd.core.cloudtrail import QUARANTINE_POLICY
from rekeyd.core.sessions import POLICY_NAME, revoked_before

_ADMINISTRATORS = ("policy/AdministratorAccess", "policy/IAMFullAccess")
_ALL = frozenset({"*", "*:*", "iam:*"})

# AWS attaches one of these to a user whose key it found in public; V2 and V3 exist, and a later one will be named so.
_QUARANTINE = f"policy/{QUARANTINE_POLICY}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRights:
    """What was found in a user's policies; None: nothing."""

    user_name: str
    administrator_by: str | None = None
    """The policy, for people."""
    quarantined_by: str | None = None
    """The AWS quarantine policy that is attached."""
    sessions_revoked_before: datetime | None = None
    """Sessions issued before this are denied everything, by a policy that `rekeyd rotate-now --revoke-sessions` put."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordPolicy:
    """Of an account; one that has none is judged by what AWS then asks."""

    minimum_length: int
    reuse_prevention: int
    """How many former passwords are refused; 0: none."""


NO_PASSWORD_POLICY = PasswordPolicy(minimum_length=8, reuse_prevention=0)
"""https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_passwords_account-policy.html, "Default policy"."""

# CIS: at least 14 characters, and the last 24 passwords.
_LEAST_LENGTH = 14
_LEAST_REMEMBERED = 24


class PasswordItem(StrEnum):
    """What the benchmarks ask of a password policy, each in a clause of its own."""

    LENGTH = "length"
    REUSE = "reuse"


def weaknesses(policy: PasswordPolicy) -> Mapping[PasswordItem, str]:
    """What is wrong with each item; empty: as the benchmarks ask."""
    found = {}
    if policy.minimum_length < _LEAST_LENGTH:
        found[PasswordItem.LENGTH] = (
            f"{policy.minimum_length} characters are enough, and {_LEAST_LENGTH} should be the least"
        )
    if policy.reuse_prevention < _LEAST_REMEMBERED:
        remembered = policy.reuse_prevention or "no"
        found[PasswordItem.REUSE] = f"{remembered} former passwords are refused, and {_LEAST_REMEMBERED} should be"
    return found


def administrator_by(attached: Iterable[str], documents: Iterable[tuple[str, Any]]) -> str | None:
    """`attached`: ARNs. `documents`: names and policies, as text (URL-encoded or not) or already parsed."""
    for arn in attached:
        if arn.endswith(_ADMINISTRATORS) and ":iam::aws:" in arn:
            return arn.rpartition("/")[2]
    for name, document in documents:
        if allows_everything(document):
            return name
    return None


def quarantined_by(attached: Iterable[str]) -> str | None:
    for arn in attached:
        if ":iam::aws:" in arn and _QUARANTINE in arn:
            return arn.rpartition("/")[2]
    return None


def sessions_revoked_before(documents: Iterable[tuple[str, Any]]) -> datetime | None:
    """By the inline policy of that name. None: there is none, or somebody put something else into it."""
    return next((revoked_before(_parsed(document)) for name, document in documents if name == POLICY_NAME), None)


def allows_everything(document: Any) -> bool:
    """False also for what is no policy."""
    parsed = _parsed(document)
    statements = parsed.get("Statement", []) if isinstance(parsed, Mapping) else []
    return any(_is_everything(each) for each in _listed(statements) if isinstance(each, Mapping))


def _is_everything(statement: Mapping[str, Any]) -> bool:
    if statement.get("Effect") != "Allow":
        return False
    actions = {str(action).lower() for action in _listed(statement.get("Action", []))}
    # NotAction allows all but a few.
    broad = bool(actions & _ALL) or "NotAction" in statement
    return broad and ("*" in _listed(statement.get("Resource", [])) or "NotResource" in statement)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _parsed(document: Any) -> Any:
    if not isinstance(document, str):
        return document
    try:
        return json.loads(unquote(document) if document.lstrip().startswith("%") else document)
    except (ValueError, RecursionError):  # the latter: brackets nested a thousand deep
        return None
