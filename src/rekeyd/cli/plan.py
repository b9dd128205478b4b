"""`rekeyd plan`: what the daemon would do next for every managed user, by a live look."""

from typing import TYPE_CHECKING, Any

from rekeyd.cli import output
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode
from rekeyd.cli.options import Session, command
from rekeyd.cli.program import app
from rekeyd.cli.rotate import AccountOption
from rekeyd.errors import Error

if TYPE_CHECKING:
    from datetime import datetime

    from rekeyd.app import App
    from rekeyd.core.model import AccountId, Principal
    from rekeyd.fleet.preview import Foreseen

# Spelled for programs: `actions[].action`.
ACTION_NAMES = {
    "OpenRotation": "open_rotation",
    "IssueKey": "issue_key",
    "Republish": "republish",
    "ProveHeld": "prove_held_key",
    "StartRetirement": "start_retirement",
    "StartQuarantine": "start_quarantine",
    "Claim": "claim",
    "Deactivate": "deactivate",
    "Reactivate": "reactivate",
    "Delete": "delete",
    "Burn": "burn",
    "Close": "close",
    "Wait": "wait",
    "Idle": "idle",
    "Refuse": "refuse",
}
FAILED = "look_failed"
"""The action of a user that could not be looked at."""


@command(app, "plan")
def plan(session: Session, *, account: AccountOption = None) -> ExitCode:
    """Show what comes next for every managed user. Looks live; changes nothing."""
    config = session.load()
    from rekeyd.app import observing
    from rekeyd.cli.person import actor

    with observing(config, actor=actor()) as seen:
        foreseen, failed = look_at_all(seen, account)
        now = seen.clock.now()
    entries = [_entry(each, now) for each in foreseen]
    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "actions": entries})
    elif not entries:
        output.line("no policy manages any user")
    else:
        rows = [_row(each, now) for each in foreseen]
        output.table(("account", "user", "policy", "action", "at", "why"), rows, styled="action")
    return ExitCode.FAILED if failed or any(each.error is not None for each in foreseen) else ExitCode.DONE


def look_at_all(seen: "App", account: str | None) -> "tuple[list[Foreseen], list[AccountId]]":
    """Every user that a policy concerns, and the accounts that could not be listed (said on stderr, P9)."""
    from rekeyd.cli.targets import watched_accounts
    from rekeyd.errors import StoppingError
    from rekeyd.fleet.preview import Preview

    preview = Preview(fleet=seen.fleet)
    users: list[Principal] = []
    failed: list[AccountId] = []
    for account_id in watched_accounts(seen.fleet, account):
        try:
            users += list(preview.list(account_id).concerned)
        except StoppingError:
            raise
        except Error as error:
            output.say(f"error: account {account_id} could not be listed: {error.message}")
            failed.append(account_id)
    with output.progress("looking", len(users)) as progress:
        foreseen = list(preview.look_at_all(users, on_each=progress.step))
    return foreseen, failed


def action_name(foreseen: "Foreseen") -> str:
    return FAILED if foreseen.action is None else ACTION_NAMES[type(foreseen.action).__name__]


def action_at(foreseen: "Foreseen", now: "datetime") -> "datetime | None":
    """When: now for a step, the end of a wait, None for what only a person ends."""
    from rekeyd.core.actions import Idle, Refuse, Wait

    match foreseen.action:
        case None | Idle():
            return None
        case Wait(until=until) | Refuse(until=until):
            return until
        case _:
            return now


def _entry(foreseen: "Foreseen", now: "datetime") -> dict[str, Any]:
    from rekeyd.core.reasons import Reason
    from rekeyd.fleet.documents import time_text

    reason = Reason.STEP_FAILED if foreseen.action is None else foreseen.action.reason
    return {
        "account_id": foreseen.principal.account_id,
        "user_name": foreseen.principal.user_name,
        "action": action_name(foreseen),
        "reason": reason.value,
        "message": foreseen.message,
        "at": time_text(action_at(foreseen, now)),
        "policy": None if foreseen.policy is None else foreseen.policy.name,
    }


def _row(foreseen: "Foreseen", now: "datetime") -> tuple[object, ...]:
    entry = _entry(foreseen, now)
    at = action_at(foreseen, now)
    shown = "now" if at == now else output.when(at, now)
    return (entry["account_id"], entry["user_name"], entry["policy"], entry["action"], shown, entry["message"])
