"""`rekeyd alarms sessions`: whether old sessions of a user are denied, and the end of that."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekeyd.cli import output
from rekeyd.cli.alarms import alarms
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode
from rekeyd.cli.options import Session, command
from rekeyd.cli.revoking import OperatorOption, Revoking, revoking, roles, show
from rekeyd.cli.rotate import AccountOption
from rekeyd.errors import StateError, UsageError

if TYPE_CHECKING:
    from rekeyd.app import App
    from rekeyd.cli.targets import Target


@command(alarms, "sessions")
def sessions(
    session: Session,
    user: Annotated[str, typer.Argument(metavar="USER", help="Name of an IAM user.")],
    *,
    account: AccountOption = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY_ID", help="Look for roles assumed with this key.", show_default=False),
    ] = None,
    deny: Annotated[
        bool, typer.Option("--deny", help="Deny the user's sessions issued until now.", show_default=False)
    ] = False,
    remove: Annotated[
        bool,
        typer.Option("--remove", help="Remove that again, once none of them can live.", show_default=False),
    ] = False,
    operator_role_arn: OperatorOption = None,
) -> ExitCode:
    """Show whether a user's old sessions are denied, and which roles an exposed key has assumed."""
    from rekeyd.app import opened
    from rekeyd.cli import targets
    from rekeyd.cli.person import actor, refuse_other_user
    from rekeyd.core.model import AccessKeyId

    if deny and remove:
        raise UsageError("--deny and --remove contradict each other")
    config = session.load()
    refuse_other_user(config)
    if (deny or remove) and config.fleet.mode.value == "observe":
        raise StateError('fleet.mode is "observe", so nothing is changed', hint='set fleet.mode = "enforce"')
    key_id = None if key is None else AccessKeyId(key)
    with opened(config, actor=actor()) as running:
        (target,) = targets.named(running.fleet, [user], account)
        cutting = revoking(running, actor(), operator_role_arn)
        if deny or remove:
            cutting.check([target])
        if deny:
            entry = cutting.revoke(target, key_id)
        else:
            entry = _standing(running, target, cutting if remove else None) | roles(running, target, key_id)
    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "sessions": [entry]})
    else:
        show(entry)
    return ExitCode.FAILED if entry["outcome"] == "failed" else ExitCode.DONE


def _standing(running: "App", target: "Target", lifting: Revoking | None) -> "dict[str, Any]":
    """What IAM shows now, after `lifting` it. StateError: sessions that it denies may still live."""
    from rekeyd.core.sessions import removable_at
    from rekeyd.fleet.documents import time_text

    rights = running.cloud.iam(target.account_id).user_rights().get(target.principal.arn)
    before = None if rights is None else rights.sessions_revoked_before
    entry: dict[str, Any] = {"account_id": target.account_id, "user_name": target.user_name, "revoked_before": None}
    if before is None:
        return entry | {"outcome": "none", "message": "no policy of rekeyd denies its sessions", "removable_at": None}
    ends = removable_at(before)
    if lifting is None:
        message = "sessions issued before this moment are denied"
        return entry | {
            "outcome": "revoked",
            "message": message,
            "revoked_before": time_text(before),
            "removable_at": time_text(ends),
        }
    if running.clock.now() < ends:
        raise StateError(
            f"sessions that it denies may live until {time_text(ends)}",
            hint="run this again then; an alarm will remind you",
        )
    lifting.lift(target)
    return entry | {
        "outcome": "removed",
        "message": "its old sessions are over; the policy is gone",
        "removable_at": None,
    }
