"""What a message of the event queue points at. It tells where to look, and nothing in it is believed.

    pointed_at(body) -> Pointer | None

A message is an EventBridge event with a CloudTrail record inside, or AWS Health's word of exposed credentials. Such
messages come twice, late, in any order, from accounts that nobody watches, and whoever may write to the queue can make
them up. So none of them states a fact: the worst that a forged one does is a look that finds nothing new.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rekeyd.core.model import AccessKeyId, AccountId, JournalFacts

EXPOSURE_CODES = "AWS_RISK_CREDENTIALS_"
"""How the codes of AWS Health's events begin that tell of credentials in wrong hands: …EXPOSED, …EXPOSURE_SUSPECTED, ….
https://github.com/aws/aws-health-tools/tree/master/automated-actions/AWS_RISK_CREDENTIALS_EXPOSED"""
QUARANTINE_POLICY = "AWSCompromisedKeyQuarantine"
"""How the names of AWS's policies begin that it attaches to users whose key leaked."""

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
_USER_NAME = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)
_ACCOUNT_ID = re.compile(r"\d{12}", re.ASCII)
# https://docs.aws.amazon.com/IAM/latest/APIReference/API_AccessKey.html
_KEY_ID = re.compile(r"\w{16,128}", re.ASCII)


class NotAnEventError(ValueError):
    """The message is none that EventBridge makes of a CloudTrail record. Its text names what is missing."""


class KeyChange(StrEnum):
    """What the record says was done to the key of a user."""

    CREATED = "created"
    DEACTIVATED = "deactivated"
    REACTIVATED = "reactivated"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """Whom to look at. At least one of `root`, `exposed` and `user_name` says so."""

    account_id: AccountId
    root: bool = False
    root_used: bool = False
    """The root user itself did something, and no session of AssumeRoot: CloudTrail will show it."""
    exposed: bool = False
    """AWS says that credentials of the account are in wrong hands, or has just put a user in quarantine."""
    user_name: str | None = None
    access_key_id: AccessKeyId | None = None
    """Of the user's key that was changed, where the record names it."""
    change: KeyChange | None = None
    """None: no key of a user was changed, or the record does not say how."""


def pointed_at(body: str) -> Pointer | None:
    """None: an event, and not one that calls for a look. Raises NotAnEventError."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise NotAnEventError("it is not JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("detail"), dict):
        raise NotAnEventError("it has no detail")
    account_id = event.get("account")
    if not isinstance(account_id, str) or _ACCOUNT_ID.fullmatch(account_id) is None:
        raise NotAnEventError("it names no account")
    record: Mapping[str, Any] = event["detail"]
    if isinstance(record.get("eventTypeCode"), str):
        return _of_health(AccountId(account_id), record)
    if not isinstance(record.get("eventName"), str) or not isinstance(record.get("userIdentity"), dict):
        raise NotAnEventError("its detail is no record of CloudTrail")
    change = _change(record)
    user_name = None if change is None else _user_name(record)
    root = record["userIdentity"].get("type") == "Root"
    exposed = _quarantines(record)
    if not root and not exposed and user_name is None:
        return None
    return Pointer(
        account_id=AccountId(account_id),
        root=root,
        root_used=is_root_user(record),
        exposed=exposed,
        user_name=user_name,
        access_key_id=None if user_name is None else _key_id(record),
        change=None if user_name is None else change,
    )


def is_known(pointer: Pointer, facts: JournalFacts) -> bool:
    """Whether the journal says already what the message says of the user's key: then it was rekeyd's own call.

    rekeyd's create carries its operation id in the user agent, where everybody who may read CloudTrail can copy it.
    So what counts is the key: the journal holds the id that came back for that operation. A key that somebody
    reactivated is always news.
    """
    if pointer.access_key_id is None or pointer.access_key_id not in facts.keys:
        return False
    known = facts.keys[pointer.access_key_id]
    match pointer.change:
        case KeyChange.CREATED:
            return known.made_by is not None
        case KeyChange.DEACTIVATED:
            return known.deactivated_by_us or known.gone
        case KeyChange.DELETED:
            return known.gone
        case KeyChange.REACTIVATED | None:
            return False


def _of_health(account_id: AccountId, record: Mapping[str, Any]) -> Pointer | None:
    if not record["eventTypeCode"].startswith(EXPOSURE_CODES):
        return None
    # Where AWS Health is shown for a whole organization, the event comes from another account than it is about.
    affected = record.get("affectedAccount")
    if isinstance(affected, str) and _ACCOUNT_ID.fullmatch(affected) is not None:
        account_id = AccountId(affected)
    return Pointer(account_id=account_id, exposed=True)


def _quarantines(record: Mapping[str, Any]) -> bool:
    """Whether somebody, usually AWS, just attached AWS's policy for users whose key leaked."""
    if record.get("eventSource") != "iam.amazonaws.com" or record["eventName"] != "AttachUserPolicy":
        return False
    return QUARANTINE_POLICY in str(_inside(record, "requestParameters").get("policyArn")) and not record.get(
        "errorCode"
    )


def is_root_user(record: Mapping[str, Any]) -> bool:
    """Whether the root user itself did it, as CIS's filter has it, and no session of AssumeRoot."""
    identity = record.get("userIdentity")
    if not isinstance(identity, dict) or identity.get("type") != "Root" or identity.get("invokedBy"):
        return False
    if record.get("eventType") == "AwsServiceEvent":
        return False
    context = identity.get("sessionContext")
    return not (isinstance(context, dict) and str(context.get("assumedRoot")).lower() == "true")


def _change(record: Mapping[str, Any]) -> KeyChange | None:
    """None: it changed no access key. A call that AWS refused changed none either."""
    if record.get("eventSource") != "iam.amazonaws.com" or record.get("errorCode"):
        return None
    match record["eventName"]:
        case "CreateAccessKey":
            return KeyChange.CREATED
        case "DeleteAccessKey":
            return KeyChange.DELETED
        case "UpdateAccessKey":
            active = _inside(record, "requestParameters").get("status") == "Active"
            return KeyChange.REACTIVATED if active else KeyChange.DEACTIVATED
        case _:
            return None


def _user_name(record: Mapping[str, Any]) -> str | None:
    """None: a key of the root user. Without a name in it a request is about the caller's own keys."""
    identity = record["userIdentity"]
    own = identity.get("userName") if identity.get("type") == "IAMUser" else None
    made = _inside(_inside(record, "responseElements"), "accessKey")
    name = _inside(record, "requestParameters").get("userName") or made.get("userName") or own
    return name if isinstance(name, str) and _USER_NAME.fullmatch(name) is not None else None


def _key_id(record: Mapping[str, Any]) -> AccessKeyId | None:
    made = _inside(_inside(record, "responseElements"), "accessKey")
    key_id = made.get("accessKeyId") or _inside(record, "requestParameters").get("accessKeyId")
    return AccessKeyId(key_id) if isinstance(key_id, str) and _KEY_ID.fullmatch(key_id) is not None else None


def _inside(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """CloudTrail writes null where there is nothing."""
    inner = record.get(name)
    return inner if isinstance(inner, dict) else {}
