"""`rekeyd audit`: what is wrong now, by a live look at every account and every managed user. Changes nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rekeyd.cli import output
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode
from rekeyd.cli.options import Session, command
from rekeyd.cli.plan import look_at_all
from rekeyd.cli.program import app
from rekeyd.cli.rotate import AccountOption
from rekeyd.cli.status import exit_code, show_findings, worst_first

if TYPE_CHECKING:
    from datetime import datetime

    from rekeyd.app import App
    from rekeyd.core.findings import AccountSeen, Finding, ManagedSeen
    from rekeyd.core.model import AccountId
    from rekeyd.fleet.preview import Foreseen
    from rekeyd.ports import Alarm


@command(app, "audit")
def audit(session: Session, *, account: AccountOption = None) -> ExitCode:
    """List everything that is wrong now.

    Root user access keys, keys that are too old, unused or unexplained, and whatever else needs a person.

    Exit code 3 if a finding is critical, 1 if something could not be looked at.
    """
    config = session.load()
    from rekeyd.app import observing
    from rekeyd.cli.person import actor

    with observing(config, actor=actor()) as seen:
        findings, complete = _findings(seen, account)
        now = seen.clock.now()
        entries = _entries(findings, seen.journal.alarms(), now)
    entries.sort(key=worst_first)
    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "findings": entries})
    else:
        show_findings(entries, now, none="nothing was found")
    code = exit_code(entries)
    return ExitCode.FAILED if code is ExitCode.DONE and not complete else code


def _findings(seen: "App", account: str | None) -> "tuple[list[Finding], bool]":
    """All findings, and whether everything could be looked at."""
    from rekeyd.cli.targets import watched_accounts
    from rekeyd.core.findings import FindingReason, check, found, undecided
    from rekeyd.fleet.posture import account_findings

    foreseen, failed = look_at_all(seen, account)
    findings = [finding for each in foreseen for finding in _of_principal(each)]
    findings += [
        found(FindingReason.ACCOUNT_UNREACHABLE, account_id=each, detail="its users could not be listed")
        for each in failed
    ]
    findings += account_findings((), [b for b in seen.journal.brakes() if account in (None, b.account_id)])
    complete = not failed and all(each.error is None for each in foreseen)
    for account_id in watched_accounts(seen.fleet, account):
        mine = [each for each in foreseen if each.principal.account_id == account_id]
        managed = None if account_id in failed else _managed(mine)
        facts = _gathered(seen, account_id, managed)
        findings += check(facts, seen.clock.now())
        complete = complete and not undecided(facts)
    if account is None:
        findings += _unwatched(seen)
    return findings, complete


def _gathered(seen: "App", account_id: "AccountId", managed: "dict[str, ManagedSeen] | None") -> "AccountSeen":
    from rekeyd.core.findings import Limits
    from rekeyd.fleet.posture import gather

    limits = Limits(unused_after=seen.fleet.settings.unused_after)
    return gather(seen.cloud.iam(account_id), seen.clock, managed=managed, limits=limits)


def _unwatched(seen: "App") -> "list[Finding]":
    from rekeyd.core.findings import check
    from rekeyd.fleet.posture import unwatched

    left = seen.cloud.accounts().unwatched
    now = seen.clock.now()
    return [f for account_id, why in left.items() for f in check(unwatched(account_id, why, seen.clock), now)]


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


def _entries(findings: "Sequence[Finding]", alarms: "Sequence[Alarm]", now: "datetime") -> list[dict[str, Any]]:
    """`first_seen_at` is the open alarm's, if the daemon has raised one."""
    from rekeyd.fleet.documents import time_text

    since = {_same(a.reason, a.account_id, a.principal): a.first_seen_at for a in alarms}
    entries = {}
    for each in findings:
        entries[each.fingerprint] = {
            "severity": each.severity.value,
            "reason": each.reason,
            "account_id": each.account_id,
            "principal": each.principal,
            "message": each.message,
            "remedy": each.remedy,
            "cis": list(each.cis),
            "first_seen_at": time_text(since.get(_same(each.reason, each.account_id, each.principal), now)),
            "last_seen_at": time_text(now),
        }
    return list(entries.values())


def _same(reason: str, account_id: str | None, principal: str | None) -> tuple[str, str | None, str | None]:
    return str(reason), account_id, principal
