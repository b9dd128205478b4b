"""`rekeyd audit`: what is wrong now, by a live look at every account and every managed user. Changes nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rekeyd.cli import output
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode
from rekeyd.cli.options import Session, command
from rekeyd.cli.plan import look_at_all
from rekeyd.cli.program import app
from rekeyd.cli.rotate import AccountOption
from rekeyd.cli.status import exit_code, show_findings

if TYPE_CHECKING:
    from datetime import datetime

    from rekeyd.app import App
    from rekeyd.core.findings import AccountSeen, Finding, ManagedSeen
    from rekeyd.core.model import AccountId
    from rekeyd.fleet.preview import Foreseen
    from rekeyd.fleet.standing import Looked
    from rekeyd.ports import Alarm


@command(app, "audit")
def audit(session: Session, *, account: AccountOption = None) -> ExitCode:
    """List everything that is wrong now.

    Root user access keys, keys that are too old, unused or unexplained, and whatever else needs a person. What no look
    can see, such as an exposed key or a step that failed, is taken from the journal.

    Exit code 3 if a finding is critical, 1 if something could not be looked at.
    """
    config = session.load()
    from rekeyd.app import observing
    from rekeyd.cli.person import actor
    from rekeyd.fleet.documents import worst_first

    with observing(config, actor=actor()) as seen:
        findings, looked = _findings(seen, account)
        alarms = [each for each in seen.journal.alarms() if account in (None, each.account_id)]
        now = seen.clock.now()
        entries = _entries(findings, alarms, looked, now)
    entries.sort(key=worst_first)
    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "findings": entries})
    else:
        show_findings(entries, now, none="nothing was found")
    code = exit_code(entries)
    return ExitCode.FAILED if code is ExitCode.DONE and not looked.complete else code


def _findings(seen: "App", account: str | None) -> "tuple[list[Finding], Looked]":
    """What the look finds, with the brakes and the exposed keys of the journal."""
    from rekeyd.cli.targets import watched_accounts
    from rekeyd.core.findings import FindingReason, check, found
    from rekeyd.fleet.posture import account_findings, exposed_findings
    from rekeyd.fleet.standing import Looked

    foreseen, failed = look_at_all(seen, account)
    findings = [finding for each in foreseen for finding in _of_principal(each)]
    findings += [
        found(FindingReason.ACCOUNT_UNREACHABLE, account_id=each, detail="its users could not be listed")
        for each in failed
    ]
    findings += account_findings((), [b for b in seen.journal.brakes() if account in (None, b.account_id)])
    watched = watched_accounts(seen.fleet, account)
    facts: dict[AccountId, AccountSeen] = {}
    for account_id in watched:
        mine = [each for each in foreseen if each.principal.account_id == account_id]
        managed = None if account_id in failed else _managed(mine)
        facts[account_id] = _gathered(seen, account_id, managed)
        findings += exposed_findings(seen.journal.exposed_keys(account_id))
    if account is None:
        facts |= _unwatched(seen)
    findings += [finding for each in facts.values() for finding in check(each, seen.clock.now())]
    looked = Looked(
        accounts=facts,
        watched=frozenset(watched),
        listed=frozenset(watched) - frozenset(failed),
        failed=frozenset((p.account_id, p.user_name) for p in (f.principal for f in foreseen if f.error is not None)),
    )
    return findings, looked


def _gathered(seen: "App", account_id: "AccountId", managed: "dict[str, ManagedSeen] | None") -> "AccountSeen":
    from rekeyd.fleet.posture import gather

    return gather(seen.cloud.iam(account_id), seen.clock, managed=managed, limits=seen.fleet.settings.limits)


def _unwatched(seen: "App") -> "dict[AccountId, AccountSeen]":
    from rekeyd.fleet.posture import unwatched

    return {each: unwatched(each, why, seen.clock) for each, why in seen.cloud.accounts().unwatched.items()}


def _of_principal(foreseen: "Foreseen") -> "list[Finding]":
    from rekeyd.core.actions import Refuse
    from rekeyd.core.reasons import Reason
    from rekeyd.fleet.posture import principal_finding

    principal = foreseen.principal
    if foreseen.error is not None:
        reason, key_id = Reason.STEP_FAILED, None
    elif isinstance(foreseen.action, Refuse):
        reason, key_id = foreseen.action.reason, foreseen.action.key_id
    else:
        return []
    made = principal_finding(
        reason,
        account_id=principal.account_id,
        principal=principal.user_name,
        message=foreseen.message,
        access_key_id=key_id,
        held_since=foreseen.held_since,
    )
    return [] if made is None else [made]


def _managed(foreseen: "Sequence[Foreseen]") -> "dict[str, ManagedSeen]":
    """By ARN: the users that a policy selects, as they are now."""
    from rekeyd.core.findings import ManagedSeen
    from rekeyd.core.model import KeyStatus
    from rekeyd.core.reasons import Reason
    from rekeyd.core.state import state_of

    managed = {}
    for each in foreseen:
        if each.policy is None:
            continue
        look, action = each.look, each.action
        active = [] if look is None else [k.created_at for k in look.seen.keys if k.status is KeyStatus.ACTIVE]
        managed[each.principal.arn] = ManagedSeen(
            user_name=each.principal.user_name,
            policy=each.policy.name,
            max_age=each.policy.max_age,
            unused_after=each.policy.unused_after,
            state="refused" if look is None or action is None else str(state_of(look.seen, action)),
            reason=Reason.STEP_FAILED if action is None else action.reason,
            oldest_active_at=min(active, default=None),
            looked_at=None if look is None else each.looked_at,
        )
    return managed


def _entries(
    findings: "Sequence[Finding]", alarms: "Sequence[Alarm]", looked: "Looked", now: "datetime"
) -> list[dict[str, Any]]:
    """Each once. `first_seen_at` is the open alarm's, if the daemon has raised one."""
    from rekeyd.fleet.documents import acknowledgement_entry, finding_entry, time_text
    from rekeyd.fleet.standing import standing

    since = {_same(each): each.first_seen_at for each in alarms}
    known = {each.fingerprint: each for each in alarms if each.acknowledged_until is not None}
    entries: dict[str, dict[str, Any]] = {}
    for each in findings:
        entry = {
            "severity": each.severity.value,
            "reason": each.reason,
            "account_id": each.account_id,
            "principal": each.principal,
            "message": each.message,
            "remedy": each.remedy,
            "cis": list(each.cis),
            "first_seen_at": time_text(since.get(_same(each), now)),
            "last_seen_at": time_text(now),
        }
        alarm = known.get(each.fingerprint)
        # What grew worse since is not what somebody acknowledged.
        if alarm is not None and alarm.severity == each.severity.value:
            entry |= acknowledgement_entry(alarm)
        entries[each.fingerprint] = entry
    found = {_same(each) for each in findings if each.reason != _EXPOSED}
    for alarm in standing(alarms, looked):
        if _same(alarm) not in found:
            entries.setdefault(alarm.fingerprint, finding_entry(alarm))
    return list(entries.values())


# The one finding that a user may have of several keys; all others of a user and a reason are the same.
_EXPOSED = "key_exposed"


def _same(finding: "Finding | Alarm") -> tuple[str, str | None, str | None]:
    return str(finding.reason), finding.account_id, finding.principal
