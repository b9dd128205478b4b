"""Sessions that an access key asked for, and how those of an exposed key are cut.

A session of GetSessionToken or GetFederationToken outlives the key that asked for it, and has the user's rights: an
inline policy of the user that denies everything to sessions issued before a moment cuts it. Calls that are signed with
an access key carry no aws:TokenIssueTime, so the condition is never met for them, and keys are not touched.

A role that was assumed has its own rights, and is not cut by any policy of the user.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rekeyd.core.model import AccessKeyId

POLICY_NAME = "rekeyd-revoked-sessions"

LONGEST_SESSION = timedelta(hours=36)
"""https://docs.aws.amazon.com/STS/latest/APIReference/API_GetSessionToken.html, DurationSeconds; a federation token
lives as long at most."""

LONGEST_ROLE_SESSION = timedelta(hours=12)
"""https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html, DurationSeconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssumedRole:
    """A role session that began with a key, directly or by a session of it, as CloudTrail shows it."""

    role_arn: str
    session_name: str
    signed_by: AccessKeyId
    """The key itself, or a session's."""
    at: datetime
    ends_at: datetime | None
    """None: the event does not tell; at most 12 hours later."""


def revocation(before: datetime) -> str:
    """The policy that denies everything to sessions issued before this moment; IAM compares whole seconds."""
    statement = {
        "Sid": "SessionsOfAnExposedKey",
        "Effect": "Deny",
        "Action": "*",
        "Resource": "*",
        "Condition": {"DateLessThan": {"aws:TokenIssueTime": f"{before:%Y-%m-%dT%H:%M:%SZ}"}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def revoked_before(document: Any) -> datetime | None:
    """The moment of such a policy, parsed. None: it is none."""
    try:
        (statement,) = document["Statement"]
        said = statement["Condition"]["DateLessThan"]["aws:TokenIssueTime"]
        before = datetime.fromisoformat(said)
    except (KeyError, TypeError, ValueError):
        return None
    return before if statement.get("Effect") == "Deny" and before.tzinfo is not None else None


def removable_at(before: datetime) -> datetime:
    """When no session that such a policy cuts can live any more."""
    return before + LONGEST_SESSION


def lives(role: AssumedRole, now: datetime) -> bool:
    return now < (role.ends_at or role.at + LONGEST_ROLE_SESSION)


def session_made(event: Mapping[str, Any]) -> AccessKeyId | None:
    """The access key ID of the session that this CloudTrail record's call made. None: it made none."""
    if event.get("eventSource") != "sts.amazonaws.com" or event.get("errorCode"):
        return None
    credentials = _inside(_inside(event, "responseElements"), "credentials")
    key_id = credentials.get("accessKeyId")
    return AccessKeyId(key_id) if isinstance(key_id, str) else None


def role_assumed(event: Mapping[str, Any], *, signed_by: AccessKeyId, at: datetime) -> AssumedRole | None:
    """The role session that this CloudTrail record's call made. None: it made none."""
    if event.get("eventName") != "AssumeRole" or session_made(event) is None:
        return None
    asked = _inside(event, "requestParameters")
    ends = _inside(_inside(event, "responseElements"), "credentials").get("expiration")
    return AssumedRole(
        role_arn=str(asked.get("roleArn") or "an unnamed role"),
        session_name=str(asked.get("roleSessionName") or ""),
        signed_by=signed_by,
        at=at,
        ends_at=_console_date(ends),
    )


def _console_date(text: object) -> datetime | None:
    """CloudTrail writes dates of answers in words: `Nov 23, 2026, 7:22:34 PM`, with or without the second comma."""
    if not isinstance(text, str):
        return None
    for form in ("%b %d, %Y, %I:%M:%S %p", "%b %d, %Y %I:%M:%S %p"):
        try:
            # Newer ones have a narrow space before AM and PM.
            return datetime.strptime(" ".join(text.split()), form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def _inside(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """CloudTrail writes null where there is nothing."""
    inner = record.get(name)
    return inner if isinstance(inner, dict) else {}
