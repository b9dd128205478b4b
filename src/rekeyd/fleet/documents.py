"""What programs read: the documents of DESIGN §8 that the command line and HTTP share.

Plain values only (text, numbers, lists, tables), ready for `json.dumps`; times are RFC 3339 in UTC with whole
seconds. `schema_version` rises only when a field changes its meaning or goes.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rekeyd.core.reasons import Severity
from rekeyd.ports import AccountStatus, Alarm, Clock, Journal, PrincipalStatus

SCHEMA_VERSION = 1

_WORST_FIRST = tuple(Severity)


def status_document(journal: Journal, clock: Clock) -> dict[str, Any]:
    """`rekeyd status --json` and `/api/v1/status`: from the journal alone. Raises JournalError."""
    now = clock.now()
    return {
        "schema_version": SCHEMA_VERSION,
        "as_of": time_text(now),
        "principals": [principal_entry(status, now) for status in journal.statuses()],
        "findings": [finding_entry(alarm) for alarm in journal.alarms()],
        "accounts": [account_entry(status) for status in journal.account_statuses()],
    }


def principal_entry(status: PrincipalStatus, now: datetime) -> dict[str, Any]:
    """`age_days`: of the held key; without one, of the oldest Active key; null without either."""
    born_at = status.held_created_at or status.oldest_active_at
    return {
        "account_id": status.account_id,
        "user_name": status.user_name,
        "policy": status.policy,
        "state": str(status.state),
        "reason": status.reason.value,
        "message": status.message,
        "held_access_key_id": status.held_access_key_id,
        "old_access_key_id": status.old_access_key_id,
        "age_days": None if born_at is None else (now - born_at).days,
        "next_at": time_text(status.next_at),
    }


def finding_entry(alarm: Alarm) -> dict[str, Any]:
    """As in `audit`. The acknowledgement's fields are there only where there is one; it makes nothing less severe."""
    entry = {
        "severity": str(alarm.severity),
        "reason": alarm.reason,
        "account_id": alarm.account_id,
        "principal": alarm.principal,
        "message": alarm.message,
        "remedy": alarm.remedy,
        "cis": list(alarm.cis),
        "first_seen_at": time_text(alarm.first_seen_at),
        "last_seen_at": time_text(alarm.last_seen_at),
    }
    return entry if alarm.acknowledged_until is None else entry | acknowledgement_entry(alarm)


def worst_first(finding: Mapping[str, Any]) -> tuple[int, str, str]:
    """Sort key of finding entries."""
    return _WORST_FIRST.index(finding["severity"]), finding["account_id"] or "", finding["principal"] or ""


def acknowledgement_entry(alarm: Alarm) -> dict[str, Any]:
    """Who said, until when, and why; all null: nobody did."""
    return {
        "acknowledged_until": time_text(alarm.acknowledged_until),
        "acknowledged_by": alarm.acknowledged_by,
        "acknowledged_because": alarm.acknowledged_because,
    }


def account_entry(status: AccountStatus) -> dict[str, Any]:
    return {
        "account_id": status.account_id,
        "alias": status.alias,
        "state": status.state,
        "message": status.message,
        "last_pass_at": time_text(status.last_pass_at),
        "principals": status.principals,
        "due": status.due,
    }


def time_text(at: datetime | None) -> str | None:
    """RFC 3339 in UTC: `2026-11-23T19:44:00Z`."""
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
