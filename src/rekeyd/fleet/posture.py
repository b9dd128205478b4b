"""The facts that findings are judged by: gathered from IAM in as few calls as possible, or read from the journal.

A root check is one call: AWS makes a new credential report at most every four hours, and until then the last one is
kept. A look-up that fails keeps the last answer and says since how many looks it is old.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from rekeyd.core.events import Event
from rekeyd.core.findings import (
    AccountSeen,
    Finding,
    FindingReason,
    Limits,
    ManagedSeen,
    Unreadable,
    found,
    refused,
    root_state,
)
from rekeyd.core.model import AccessKeyId, AccountId, UserId
from rekeyd.core.policy import Policy
from rekeyd.core.reasons import Reason, Severity
from rekeyd.core.retire import held_too_long_since
from rekeyd.errors import AccessDeniedError, Error, StoppingError
from rekeyd.logs import get_logger
from rekeyd.ports import AccountStatus, Brake, Clock, CredentialReport, ExposedKey, Iam, Journal, PrincipalStatus

log = get_logger()

T = TypeVar("T")

REPORT_LIFE = timedelta(hours=4)
"""Within it AWS serves the old report again.
https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_getting-report.html"""

SETTINGS_LIFE = timedelta(hours=1)
"""How long a user whom AWS put in quarantine, or a use of the root user, may go unseen.
docs/alarms.md counts the calls."""


class Part(StrEnum):
    """Facts that may be asked for again before they are `SETTINGS_LIFE` old."""

    TRAIL = "trail"
    """Use of the root user, by CloudTrail."""
    EXPOSURE = "exposure"
    """Credentials in wrong hands, by AWS's quarantine policy and AWS Health."""


def gather(
    iam: Iam,
    clock: Clock,
    *,
    previous: AccountSeen | None = None,
    managed: Mapping[str, ManagedSeen] | None = None,
    limits: Limits | None = None,
    report_wait: timedelta = timedelta(seconds=30),
    report_life: timedelta = REPORT_LIFE,
    anew: Collection[Part] = (),
) -> AccountSeen:
    """Look at one account. Never raises for an answer of AWS, only StoppingError.

    `previous`: the last look of this process; it carries what need not be asked again and the failures in a row.
    `managed`: by ARN; None: not known. `report_wait`: how long a report may take to be made. `report_life`: a younger
    one is kept. `anew`: what is asked for again, however young.
    """
    before = previous if previous is not None else AccountSeen(account_id=iam.account_id, seen_at=clock.now())
    seen = replace(
        before,
        unwatched=None,
        managed=managed,
        limits=limits if limits is not None else before.limits,
    )
    # Taken before the call: a report made while it runs counts as newer, and so may raise.
    asked_at = clock.now()
    summary, unreadable = _look(iam.account_summary, before.summary_unreadable)
    seen = replace(seen, seen_at=asked_at, summary_unreadable=unreadable)
    if summary is not None:
        seen = replace(seen, summary=summary, summary_seen_at=asked_at)
    if _report_is_old(before, asked_at, report_life):
        seen = _with_report(seen, iam, report_wait)
    if _settings_are_old(before, asked_at):
        seen = _with_trail(_with_exposure(_with_settings(seen, iam), iam), iam)
    else:
        seen = _with_exposure(seen, iam) if Part.EXPOSURE in anew else seen
        seen = _with_trail(seen, iam) if Part.TRAIL in anew else seen
    if root_state(seen) == 0.0:
        log.debug(Event.ROOT_KEY_CHECKED, account_id=seen.account_id)
    return seen


def unwatched(account_id: AccountId, why: str, clock: Clock, *, previous: AccountSeen | None = None) -> AccountSeen:
    """An account that is excluded, suspended or vanished. What was seen before stays seen."""
    before = previous if previous is not None else AccountSeen(account_id=account_id, seen_at=clock.now())
    return replace(before, seen_at=clock.now(), unwatched=why, managed=None)


def with_report(seen: AccountSeen, report: CredentialReport) -> AccountSeen:
    """A report that somebody else (the scan) read is not asked for again. An older one changes nothing."""
    if seen.report is not None and seen.report.generated_at > report.generated_at:
        return seen
    return replace(seen, report=report, report_unreadable=None)


def newer_of(newest: AccountSeen, late: AccountSeen) -> AccountSeen:
    """`newest` began after `late`, and ended before it: each may know something that the other does not."""
    seen = newest if late.report is None else with_report(newest, late.report)
    used = [at for at in (newest.root_seen_used_at, late.root_seen_used_at) if at is not None]
    return replace(seen, root_seen_used_at=max(used, default=None))


def managed_seen(status: PrincipalStatus, policy: Policy) -> ManagedSeen:
    """The last look at a principal that `policy` selects."""
    return ManagedSeen(
        user_name=status.user_name,
        policy=policy.name,
        max_age=policy.max_age,
        unused_after=policy.unused_after,
        state=status.state,
        reason=status.reason,
        oldest_active_at=status.oldest_active_at,
        looked_at=status.looked_at,
    )


def principal_findings(
    statuses: Iterable[PrincipalStatus], held_since: Mapping[UserId, datetime] | None = None
) -> tuple[Finding, ...]:
    """Every principal whose last look came to a refusal. `held_since`: as `held_too_long` has it."""
    findings = (
        principal_finding(
            status.reason,
            account_id=status.account_id,
            principal=status.user_name,
            message=status.message,
            access_key_id=status.old_access_key_id,
            held_since=(held_since or {}).get(status.user_id),
        )
        for status in statuses
    )
    return tuple(finding for finding in findings if finding is not None)


def principal_finding(
    reason: Reason,
    *,
    account_id: AccountId,
    principal: str,
    message: str,
    access_key_id: AccessKeyId | None,
    held_since: datetime | None,
) -> Finding | None:
    """`held_since`: its old key is on hold since then, for longer than `max_hold`; None: it is not."""
    if held_since is not None:
        message = f"{message}; on hold since {held_since:%Y-%m-%d}, longer than max_hold"
    return refused(
        reason,
        account_id=account_id,
        principal=principal,
        message=message,
        access_key_id=access_key_id,
        severity=None if held_since is None else Severity.HIGH,
    )


def held_too_long(
    statuses: Iterable[PrincipalStatus], journal: Journal, policies: Iterable[Policy], now: datetime
) -> dict[UserId, datetime]:
    """Users whose old key is in use for longer than `max_hold` after its overlap, and since when it is on hold."""
    held = {s.user_id: s for s in statuses if s.reason is Reason.STILL_USED and s.old_access_key_id is not None}
    named = {policy.name: policy for policy in policies}
    since: dict[UserId, datetime] = {}
    for account_id in {status.account_id for status in held.values()}:
        for (user_id, key_id), retirement in journal.retirements(account_id).items():
            status = held.get(user_id)
            policy = named.get(status.policy or "") if status is not None else None
            if status is None or policy is None or status.old_access_key_id != key_id:
                continue
            if (at := held_too_long_since(policy, retirement, now)) is not None:
                since[user_id] = at
    return since


def exposed_findings(exposed: Iterable[ExposedKey]) -> tuple[Finding, ...]:
    """Keys that a person said are in wrong hands."""
    return tuple(
        found(
            FindingReason.KEY_EXPOSED,
            account_id=each.account_id,
            principal=each.user_name,
            access_key_id=each.key_id,
            detail=f"{each.key_id}, {each.because} ({each.told_by})",
        )
        for each in exposed
    )


def overdue_findings(statuses: Iterable[PrincipalStatus], *, now: datetime, patience: timedelta) -> tuple[Finding, ...]:
    """Waits whose end passed by more than `patience` without another look: whatever was to come did not."""
    return tuple(
        found(
            FindingReason.WAIT_OVERDUE,
            account_id=each.account_id,
            principal=each.user_name,
            detail=f"it waited until {each.next_at:%Y-%m-%d %H:%M} UTC, because {each.reason.sentence}",
        )
        for each in statuses
        if each.next_at is not None and each.looked_at < each.next_at and now - each.next_at > patience
    )


def account_findings(statuses: Iterable[AccountStatus], brakes: Iterable[Brake]) -> tuple[Finding, ...]:
    """Accounts that fail, and brakes: the account's own, and the fleet's without an account."""
    found_ = [
        found(_ACCOUNT_STATES[status.state], account_id=status.account_id, detail=status.message)
        for status in statuses
        if status.state in _ACCOUNT_STATES
    ]
    for brake in brakes:
        reason = FindingReason.FLEET_BRAKED if brake.account_id is None else FindingReason.ACCOUNT_BRAKED
        found_.append(found(reason, account_id=brake.account_id, detail=f"{brake.failures} failures, {brake.detail}"))
    return tuple(found_)


# `braked` is told by the brake itself, and `root_unwatched` by `check`.
_ACCOUNT_STATES = {
    "failing": FindingReason.ACCOUNT_FAILING,
    "unreachable": FindingReason.ACCOUNT_UNREACHABLE,
}


def _report_is_old(before: AccountSeen, now: datetime, life: timedelta) -> bool:
    return before.report is None or now - before.report.generated_at >= life


def _with_report(seen: AccountSeen, iam: Iam, report_wait: timedelta) -> AccountSeen:
    report, unreadable = _look(lambda: iam.credential_report(max_wait=report_wait), seen.report_unreadable)
    seen = replace(seen, report_unreadable=unreadable)
    if report is None:
        return seen
    # Names change seldom; asking with each new report is often enough.
    alias, _ = _look(iam.account_alias, None)
    return replace(with_report(seen, report), alias=alias or seen.alias)


def _settings_are_old(before: AccountSeen, now: datetime) -> bool:
    return before.settings_seen_at is None or now - before.settings_seen_at >= SETTINGS_LIFE


def _with_settings(seen: AccountSeen, iam: Iam) -> AccountSeen:
    passwords, passwords_unreadable = _look(iam.password_policy, seen.password_unreadable)
    return replace(
        seen,
        settings_seen_at=seen.seen_at,
        password_policy=passwords if passwords is not None else seen.password_policy,
        password_unreadable=passwords_unreadable,
    )


def _with_exposure(seen: AccountSeen, iam: Iam) -> AccountSeen:
    rights, rights_unreadable = _look(iam.user_rights, seen.rights_unreadable)
    # Where AWS Health is not asked, or has no answer, there are none.
    notices, notices_unreadable = _look(lambda: iam.exposure_notices() or (), seen.notices_unreadable)
    return replace(
        seen,
        rights=rights if rights is not None else seen.rights,
        rights_unreadable=rights_unreadable,
        notices=notices if notices is not None else seen.notices,
        notices_unreadable=notices_unreadable,
    )


def _with_trail(seen: AccountSeen, iam: Iam) -> AccountSeen:
    since = seen.seen_at - seen.limits.root_used_within
    used, trail_unreadable = _look(lambda: (iam.root_used_at(since=since),), seen.trail_unreadable)
    return replace(
        seen,
        root_seen_used_at=(used[0] if used is not None else None) or seen.root_seen_used_at,
        trail_unreadable=trail_unreadable,
    )


def _look(ask: Callable[[], T], before: Unreadable | None) -> tuple[T | None, Unreadable | None]:
    """The answer, or why there is none and how often in a row there was none."""
    try:
        return ask(), None
    except StoppingError:
        raise
    except Error as error:
        failures = (before.failures_in_a_row if before is not None else 0) + 1
        denied = isinstance(error, AccessDeniedError)
        return None, Unreadable(denied=denied, failures_in_a_row=failures, detail=error.message)
