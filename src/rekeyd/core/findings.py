"""What is wrong with an account, by the facts that were gathered about it.

    check(seen, now) -> findings
    undecided(seen)  -> reasons that these facts can neither find nor clear

The account summary is live and counts inactive root access keys; the credential report can be hours old. Either one
raises. A report that was made before the summary was read never raises against a clear one, so the alarm ends when the
summary is clear and no later report disagrees. Nothing else ends it: a look that failed, an account that nobody
watches and a fact that nobody gathered are not "clear".
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from rekeyd.core.findings_model import (
    CHECKS_BEFORE_UNREADABLE,
    AccountSeen,
    Finding,
    Limits,
    ManagedSeen,
    Unreadable,
    found,
    refused,
)
from rekeyd.core.findings_text import PASSWORD_CLAUSES, FindingReason
from rekeyd.core.posture import ExposureNotice, ReportKey, ReportRow
from rekeyd.core.rights import weaknesses
from rekeyd.core.sessions import POLICY_NAME, removable_at

__all__ = [
    "CHECKS",
    "CHECKS_BEFORE_UNREADABLE",
    "POSTURE_REASONS",
    "AccountSeen",
    "Finding",
    "FindingReason",
    "Limits",
    "ManagedSeen",
    "Unreadable",
    "check",
    "found",
    "refused",
    "root_key_present",
    "root_state",
    "root_used_at",
    "undecided",
]

Check = Callable[[AccountSeen, datetime], Iterator[Finding]]

POSTURE_REASONS = frozenset(
    {
        FindingReason.ROOT_ACCESS_KEY,
        FindingReason.ROOT_UNREADABLE,
        FindingReason.ROOT_UNWATCHED,
        FindingReason.ROOT_USED,
        FindingReason.ROOT_TRAIL_UNREADABLE,
        FindingReason.ROOT_WITHOUT_MFA,
        FindingReason.REPORT_UNREADABLE,
        FindingReason.KEY_OVER_MAX_AGE,
        FindingReason.UNMANAGED_KEY_OVER_MAX_AGE,
        FindingReason.UNLISTED_CREDENTIALS,
        FindingReason.KEY_UNUSED,
        FindingReason.CONSOLE_USER_WITH_KEYS,
        FindingReason.TWO_ACTIVE_KEYS,
        FindingReason.USER_COMPROMISED,
        FindingReason.CREDENTIALS_EXPOSED,
        FindingReason.REVOCATION_LEFT,
        FindingReason.ADMINISTRATOR_WITH_KEYS,
        FindingReason.WEAK_PASSWORD_POLICY,
        FindingReason.POSTURE_UNREADABLE,
    }
)
"""What `check` can find."""

_BY_SUMMARY = frozenset({FindingReason.ROOT_ACCESS_KEY, FindingReason.ROOT_UNREADABLE, FindingReason.ROOT_WITHOUT_MFA})
_BY_REPORT = frozenset(
    {
        FindingReason.REPORT_UNREADABLE,
        FindingReason.ROOT_USED,
        FindingReason.KEY_OVER_MAX_AGE,
        FindingReason.UNMANAGED_KEY_OVER_MAX_AGE,
        FindingReason.UNLISTED_CREDENTIALS,
        FindingReason.KEY_UNUSED,
        FindingReason.CONSOLE_USER_WITH_KEYS,
        FindingReason.TWO_ACTIVE_KEYS,
    }
)
_BY_RIGHTS = frozenset(
    {FindingReason.USER_COMPROMISED, FindingReason.REVOCATION_LEFT, FindingReason.ADMINISTRATOR_WITH_KEYS}
)
_BY_POLICIES = frozenset(
    {
        FindingReason.KEY_OVER_MAX_AGE,
        FindingReason.UNMANAGED_KEY_OVER_MAX_AGE,
        FindingReason.UNLISTED_CREDENTIALS,
    }
)


def check(seen: AccountSeen, now: datetime) -> tuple[Finding, ...]:
    """All findings, the root user's first; at most one of a reason for each user."""
    return tuple(finding for each in CHECKS for finding in each(seen, now))


def undecided(seen: AccountSeen) -> frozenset[FindingReason]:
    """Reasons whose absence from `check` proves nothing: their alarms must stay as they are."""
    if seen.unwatched is not None:
        return POSTURE_REASONS - {FindingReason.ROOT_UNWATCHED}
    left: frozenset[FindingReason] = frozenset()
    if seen.summary is None or seen.summary_unreadable is not None:
        left |= _BY_SUMMARY
    if seen.report is None or seen.report_unreadable is not None:
        left |= _BY_REPORT
    if seen.managed is None:
        left |= _BY_POLICIES
    if seen.rights is None or seen.rights_unreadable is not None:
        left |= _BY_RIGHTS
    if seen.report is None:
        left |= {FindingReason.ADMINISTRATOR_WITH_KEYS}
    if seen.password_policy is None or seen.password_unreadable is not None:
        left |= {FindingReason.WEAK_PASSWORD_POLICY}
    if seen.rights is None or seen.password_policy is None:
        left |= {FindingReason.POSTURE_UNREADABLE}
    if seen.settings_seen_at is None:
        left |= {FindingReason.ROOT_TRAIL_UNREADABLE}
    if seen.settings_seen_at is None or seen.notices_unreadable is not None:
        left |= {FindingReason.USER_COMPROMISED, FindingReason.CREDENTIALS_EXPOSED}
    if seen.trail_unreadable is not None and not seen.trail_unreadable.denied:
        # What it showed before may be newer than the report. Where it may not be asked, the report alone decides.
        left |= {FindingReason.ROOT_USED}
    return left


def root_state(seen: AccountSeen) -> float:
    """1.0: the root user has an access key, active or not. 0.0: it has none. NaN: cannot be told."""
    if root_key_present(seen):
        return 1.0
    lasting = seen.summary_unreadable is not None and seen.summary_unreadable.lasting
    if seen.unwatched is not None or seen.summary is None or lasting:
        return math.nan
    return 0.0


def root_key_present(seen: AccountSeen) -> bool:
    """False also when it cannot be told."""
    if seen.summary is not None and seen.summary.root_access_keys_present:
        return True
    return _report_raises(seen)


def _report_raises(seen: AccountSeen) -> bool:
    if seen.report is None or seen.report.root is None or not seen.report.root.keys:
        return False
    clear = seen.summary is not None and not seen.summary.root_access_keys_present
    if clear and seen.summary_seen_at is not None:
        return seen.report.generated_at > seen.summary_seen_at
    return True


# --- the root user ---------------------------------------------------------------------------------------------------


def _root_access_key(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    if root_key_present(seen):
        yield found(
            FindingReason.ROOT_ACCESS_KEY,
            account_id=seen.account_id,
            detail=f"account {seen.label}, {_root_keys(seen)}",
        )


def _root_keys(seen: AccountSeen) -> str:
    """Which keys, as far as the report tells."""
    row = seen.report.root if seen.report is not None else None
    if row is None or not row.keys:
        return "seen in the account summary; the credential report does not list it yet"
    return "; ".join(_key_text(key) for key in row.keys)


def _key_text(key: ReportKey) -> str:
    status = "active" if key.active else "inactive"
    used = f"last used {_day(key.last_used_at)}" if key.last_used_at is not None else "no use on record"
    return f"an {status} key made {_day(key.created_at)}, {used}"


def _root_unreadable(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    problem = seen.summary_unreadable
    if problem is not None and problem.lasting:
        yield found(
            FindingReason.ROOT_UNREADABLE,
            account_id=seen.account_id,
            detail=f"account {seen.label}, {_failing(problem)}",
        )


def _report_unreadable(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    problem = seen.report_unreadable
    if problem is not None and problem.lasting:
        yield found(
            FindingReason.REPORT_UNREADABLE,
            account_id=seen.account_id,
            detail=f"account {seen.label}, {_failing(problem)}",
        )


def _failing(problem: Unreadable) -> str:
    if problem.denied:
        return problem.detail
    return f"{problem.failures_in_a_row} looks in a row failed, the last: {problem.detail}"


def _root_unwatched(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    if seen.unwatched is not None:
        yield found(
            FindingReason.ROOT_UNWATCHED, account_id=seen.account_id, detail=f"account {seen.label}, {seen.unwatched}"
        )


def _root_used(seen: AccountSeen, now: datetime) -> Iterator[Finding]:
    used_at = root_used_at(seen)
    if used_at is not None and now - used_at <= seen.limits.root_used_within:
        yield found(
            FindingReason.ROOT_USED,
            account_id=seen.account_id,
            detail=f"account {seen.label}, last at {used_at:%Y-%m-%d %H:%M} UTC",
        )


def root_used_at(seen: AccountSeen) -> datetime | None:
    """The latest of the report's three dates and CloudTrail's: a password's old use must not hide a key's new one.

    None: none is known.
    """
    row = seen.report.root if seen.report is not None else None
    reported = () if row is None else (row.password_last_used_at, *(key.last_used_at for key in row.keys))
    dates = (seen.root_seen_used_at, *reported)
    return max((date for date in dates if date is not None), default=None)


def _root_trail_unreadable(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    problem = seen.trail_unreadable
    if problem is not None and problem.lasting:
        yield found(
            FindingReason.ROOT_TRAIL_UNREADABLE,
            account_id=seen.account_id,
            detail=f"account {seen.label}, {_failing(problem)}",
        )


def _root_without_mfa(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    if seen.summary is not None:
        bare = seen.summary.root_password_present and not seen.summary.root_mfa_enabled
    elif seen.report is not None and seen.report.root is not None:
        bare = seen.report.root.password_enabled is True and not seen.report.root.mfa_active
    else:
        return
    if bare:
        yield found(FindingReason.ROOT_WITHOUT_MFA, account_id=seen.account_id, detail=f"account {seen.label}")


# --- the users -------------------------------------------------------------------------------------------------------


def _managed_key_over_max_age(seen: AccountSeen, now: datetime) -> Iterator[Finding]:
    for arn, user in sorted((seen.managed or {}).items()):
        made_at = _oldest_active_at(seen, arn, user)
        if made_at is not None and now - made_at > user.max_age:
            yield found(
                FindingReason.KEY_OVER_MAX_AGE,
                account_id=seen.account_id,
                principal=user.user_name,
                detail=f'{_days(now - made_at)} old, policy "{user.policy}" allows {_days(user.max_age)}, '
                f"because {user.reason.sentence}",
            )


def _oldest_active_at(seen: AccountSeen, arn: str, user: ManagedSeen) -> datetime | None:
    """Live where the last look is newer than the report, else by the report; None: no active key is known."""
    row = seen.report.users.get(arn) if seen.report is not None else None
    if row is None or seen.report is None:
        return user.oldest_active_at
    if user.looked_at is not None and user.looked_at >= seen.report.generated_at:
        return user.oldest_active_at
    return min((key.created_at for key in _active(row)), default=None)


def _unmanaged_key_over_max_age(seen: AccountSeen, now: datetime) -> Iterator[Finding]:
    if seen.managed is None:
        return
    for arn, row in _rows(seen):
        made_at = min((key.created_at for key in _active(row)), default=None)
        if arn not in seen.managed and made_at is not None and now - made_at > seen.limits.max_age:
            yield found(
                FindingReason.UNMANAGED_KEY_OVER_MAX_AGE,
                account_id=seen.account_id,
                principal=row.user_name,
                detail=f"{_days(now - made_at)} old",
            )


def _unlisted_credentials(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    """Of a managed user the keys themselves are listed, and more than two of them are refused."""
    if seen.managed is None:
        return
    for arn, row in _rows(seen):
        if arn not in seen.managed and row.more_credentials:
            yield found(FindingReason.UNLISTED_CREDENTIALS, account_id=seen.account_id, principal=row.user_name)


def _key_unused(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    """Judged at the report's own time: a use since then would not show in it."""
    if seen.report is None:
        return
    for arn, row in _rows(seen):
        user = (seen.managed or {}).get(arn)
        limit = user.unused_after if user is not None else seen.limits.unused_after
        silent_for = max((_silent_for(key, seen.report.generated_at) for key in _active(row)), default=timedelta(0))
        if silent_for >= limit:
            yield found(
                FindingReason.KEY_UNUSED,
                account_id=seen.account_id,
                principal=row.user_name,
                detail=f"no use on record for {_days(silent_for)}",
            )


def _silent_for(key: ReportKey, at: datetime) -> timedelta:
    return at - max(key.created_at, key.last_used_at or key.created_at)


def _console_user_with_keys(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    for _, row in _rows(seen):
        if row.password_enabled and _active(row):
            yield found(FindingReason.CONSOLE_USER_WITH_KEYS, account_id=seen.account_id, principal=row.user_name)


def _two_active_keys(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    for arn, row in _rows(seen):
        if len(_active(row)) > 1:
            rotating = arn in (seen.managed or {})
            yield found(
                FindingReason.TWO_ACTIVE_KEYS,
                account_id=seen.account_id,
                principal=row.user_name,
                detail="the overlap of a rotation is one, and ends by itself" if rotating else "",
            )


def _user_compromised(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    said: dict[str, list[str]] = {}
    for _, user in sorted((seen.rights or {}).items()):
        if user.quarantined_by is not None:
            said.setdefault(user.user_name, []).append(f"{user.quarantined_by} is attached")
    for notice in seen.notices:
        if notice.user_name is not None:
            said.setdefault(notice.user_name, []).append(_notice_text(notice, ", ".join(notice.key_ids)))
    for user_name, words in said.items():
        yield found(
            FindingReason.USER_COMPROMISED,
            account_id=seen.account_id,
            principal=user_name,
            detail="; ".join(words),
        )


def _credentials_exposed(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    """The root user's, and those of nobody who can be told."""
    said = [_notice_text(notice, notice.entity) for notice in seen.notices if notice.user_name is None]
    if said:
        yield found(
            FindingReason.CREDENTIALS_EXPOSED,
            account_id=seen.account_id,
            detail=f"account {seen.label}, {'; '.join(said)}",
        )


def _notice_text(notice: ExposureNotice, what: str) -> str:
    return f"AWS Health has {notice.code} of {what or 'nothing that it names'}, since {notice.since:%Y-%m-%d %H:%M} UTC"


def _revocation_left(seen: AccountSeen, now: datetime) -> Iterator[Finding]:
    for _, user in sorted((seen.rights or {}).items()):
        before = user.sessions_revoked_before
        if before is not None and now >= removable_at(before):
            yield found(
                FindingReason.REVOCATION_LEFT,
                account_id=seen.account_id,
                principal=user.user_name,
                detail=f"inline policy {POLICY_NAME}, for those issued before {before:%Y-%m-%d %H:%M} UTC",
            )


def _administrator_with_keys(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    for arn, row in _rows(seen):
        user = (seen.rights or {}).get(arn)
        if user is not None and user.administrator_by is not None and _active(row):
            yield found(
                FindingReason.ADMINISTRATOR_WITH_KEYS,
                account_id=seen.account_id,
                principal=row.user_name,
                detail=f"by {user.administrator_by}",
            )


def _weak_password_policy(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    items = weaknesses(seen.password_policy) if seen.password_policy is not None else {}
    if items:
        weak = found(
            FindingReason.WEAK_PASSWORD_POLICY,
            account_id=seen.account_id,
            detail=f"account {seen.label}, {'; '.join(items.values())}",
        )
        # A clause is named only where its own item is weak.
        yield replace(weak, cis=tuple(clause for item in items for clause in PASSWORD_CLAUSES[item]))


def _posture_unreadable(seen: AccountSeen, _now: datetime) -> Iterator[Finding]:
    unreadable = (seen.password_unreadable, seen.rights_unreadable, seen.notices_unreadable)
    problems = [each for each in unreadable if each is not None]
    lasting = [_failing(each) for each in problems if each.lasting]
    if lasting:
        yield found(
            FindingReason.POSTURE_UNREADABLE,
            account_id=seen.account_id,
            detail=f"account {seen.label}, {'; '.join(lasting)}",
        )


def _rows(seen: AccountSeen) -> Iterator[tuple[str, ReportRow]]:
    if seen.report is not None:
        yield from sorted(seen.report.users.items())


def _active(row: ReportRow) -> tuple[ReportKey, ...]:
    return tuple(key for key in row.keys if key.active)


def _days(span: timedelta) -> str:
    """Whole days; below two days, as in a demonstration, exact."""
    return f"{span.days} days" if span >= timedelta(days=2) else str(span)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


CHECKS: tuple[Check, ...] = (
    _root_access_key,
    _root_unreadable,
    _root_used,
    _root_trail_unreadable,
    _root_without_mfa,
    _root_unwatched,
    _report_unreadable,
    _managed_key_over_max_age,
    _unmanaged_key_over_max_age,
    _unlisted_credentials,
    _key_unused,
    _console_user_with_keys,
    _two_active_keys,
    _user_compromised,
    _credentials_exposed,
    _revocation_left,
    _administrator_with_keys,
    _weak_password_policy,
    _posture_unreadable,
)
"""Independent of each other; the order is that of the answer. A new check is a function here and a FindingReason."""
