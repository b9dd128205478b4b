"""A finding, and the facts about an account that findings are judged by.

None means that nobody gathered a fact: nothing is found by it, and nothing is cleared by it.
"Could not be read" is a fact of its own.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rekeyd.core.findings_text import FindingReason, remedy_of
from rekeyd.core.model import AccessKeyId, AccountId
from rekeyd.core.posture import AccountSummary, CredentialReport, ExposureNotice
from rekeyd.core.reasons import Reason, Severity
from rekeyd.core.rights import PasswordPolicy, UserRights

CHECKS_BEFORE_UNREADABLE = 3
"""So many failures in a row are put down to the weather; a denial never is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something to report. `message`, `severity` and `remedy` may change while it stays the same finding."""

    severity: Severity
    reason: str
    """A `FindingReason`, or for a principal that was refused a `Reason`."""
    account_id: AccountId | None
    """None: the fleet's."""
    principal: str | None
    """The user's name; None: the account's, or the fleet's."""
    message: str
    remedy: str
    cis: tuple[str, ...] = ()
    access_key_id: AccessKeyId | None = None

    @property
    def fingerprint(self) -> str:
        """The same over restarts, severities and ages: which account, principal, reason and key it is about."""
        parts = (self.account_id or "", self.principal or "", self.reason, self.access_key_id or "")
        # No part can hold a line break. 64 bits: alarms are typed by people, and there are few.
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A look-up that failed, and keeps failing."""

    denied: bool
    """The other side said no: that does not pass by itself."""
    failures_in_a_row: int
    detail: str
    """A message of ours, naming the call; never a response body."""

    @property
    def lasting(self) -> bool:
        """Whether a person must hear of it."""
        return self.denied or self.failures_in_a_row >= CHECKS_BEFORE_UNREADABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedSeen:
    """A user that a policy selects, as its last look left it."""

    user_name: str
    policy: str
    max_age: timedelta
    unused_after: timedelta
    state: str
    """As in `PrincipalStatus`."""
    reason: Reason
    """Why it is as it is: the answer to "why is this key so old"."""
    oldest_active_at: datetime | None = None
    """When its oldest Active key was made, live; None: it has none, or was never looked at."""
    looked_at: datetime | None = None
    """None: never. Newer than the report, it overrules the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """For what no policy says."""

    max_age: timedelta = timedelta(days=90)
    """CIS: 90 days or less, so a key of exactly this age is still good."""
    unused_after: timedelta = timedelta(days=45)
    """CIS: 45 days or more, so a key silent for exactly this long is found."""
    root_used_within: timedelta = timedelta(days=7)
    """A use of the root user is reported for this long, so that a weekly look at the alarms cannot miss it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSeen:
    """What is known of an account: the newest facts, and which of them could not be renewed."""

    account_id: AccountId
    seen_at: datetime
    alias: str | None = None
    summary: AccountSummary | None = None
    """The newest that was read, also when a later look failed."""
    summary_seen_at: datetime | None = None
    """Just before `summary` was asked for."""
    summary_unreadable: Unreadable | None = None
    """The looks since `summary_seen_at`."""
    report: CredentialReport | None = None
    report_unreadable: Unreadable | None = None
    settings_seen_at: datetime | None = None
    """When password policy, rights, AWS Health and CloudTrail were asked for last, with or without success."""
    password_policy: PasswordPolicy | None = None
    password_unreadable: Unreadable | None = None
    rights: Mapping[str, UserRights] | None = None
    """By ARN."""
    rights_unreadable: Unreadable | None = None
    root_seen_used_at: datetime | None = None
    """The newest use of the root user that CloudTrail ever showed; None: none, or it was never asked."""
    trail_unreadable: Unreadable | None = None
    notices: tuple[ExposureNotice, ...] = ()
    """AWS Health's, the newest that were read."""
    notices_unreadable: Unreadable | None = None
    unwatched: str | None = None
    """Why nobody looks: excluded, suspended, vanished. Such an account is never clear."""
    managed: Mapping[str, ManagedSeen] | None = None
    """By ARN; None: which users are managed is not known."""
    limits: Limits = field(default_factory=Limits)

    @property
    def label(self) -> str:
        return f"{self.account_id} ({self.alias})" if self.alias else str(self.account_id)


def found(
    reason: FindingReason,
    *,
    account_id: AccountId | None = None,
    principal: str | None = None,
    access_key_id: AccessKeyId | None = None,
    detail: str = "",
) -> Finding:
    """A finding about an account, one of its users, or (without `account_id`) the fleet."""
    return Finding(
        severity=reason.severity,
        reason=reason.value,
        account_id=account_id,
        principal=principal,
        message=_sentence(reason.sentence, detail),
        remedy=_filled(reason.remedy, account_id, principal, access_key_id),
        cis=reason.cis,
        access_key_id=access_key_id,
    )


def refused(
    reason: Reason,
    *,
    account_id: AccountId | None,
    principal: str | None,
    message: str = "",
    access_key_id: AccessKeyId | None = None,
    severity: Severity | None = None,
) -> Finding | None:
    """The finding of a principal (or, without one, of the fleet) that was refused; None: that reason is no refusal.

    `message` replaces the reason's sentence. `severity`: louder than usual, as for a key on hold beyond `max_hold`.
    """
    usual = reason.severity
    if usual is None:
        return None
    return Finding(
        severity=severity or usual,
        reason=reason.value,
        account_id=account_id,
        principal=principal,
        message=message or reason.sentence,
        remedy=_filled(remedy_of(reason), account_id, principal, access_key_id),
        access_key_id=access_key_id,
    )


def _sentence(sentence: str, detail: str) -> str:
    return f"{sentence}: {detail}" if detail else sentence


def _filled(remedy: str, account_id: str | None, principal: str | None, access_key_id: str | None) -> str:
    # Placeholders are shown where a value is missing, spelled as in a synopsis.
    return remedy.format(
        account_id=account_id or "ACCOUNT", principal=principal or "USER", access_key_id=access_key_id or "KEY_ID"
    )
