"""`rekeyd rollback`: go back to the key before the last rotation, as long as it exists."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from rekeyd.cli.exits import ExitCode
from rekeyd.cli.options import Session, command
from rekeyd.cli.program import app
from rekeyd.cli.rotate import AccountOption, LockTimeoutOption, YesOption, confirm, duration, report
from rekeyd.errors import StateError

if TYPE_CHECKING:
    from rekeyd.cli.asking import Asking, Rotated
    from rekeyd.cli.targets import Target


@command(app, "rollback")
def rollback(
    session: Session,
    user: Annotated[str, typer.Argument(metavar="USER", help="Name of an IAM user.", show_default=False)],
    *,
    account: AccountOption = None,
    lock_timeout: LockTimeoutOption = "1m",
    yes: YesOption = False,
) -> ExitCode:
    """Go back to the key before the last rotation.

    It is reactivated, proven, and published as a new version. The newer key then retires like any old key, and
    the restored one is not due again until `rotate-now`.
    """
    config = session.load()
    timeout = duration("--lock-timeout", lock_timeout)
    from rekeyd.adapters.hardening import forbid_core_dumps
    from rekeyd.app import opened
    from rekeyd.cli import targets
    from rekeyd.cli.asking import Asking
    from rekeyd.cli.person import actor, refuse_other_user
    from rekeyd.cli.stopping import stopped_by_signals

    refuse_other_user(config)
    forbid_core_dumps()
    if config.fleet.mode.value == "observe":
        raise StateError('fleet.mode is "observe", so nothing is changed', hint='set fleet.mode = "enforce"')
    with opened(config, actor=actor()) as opened_app, stopped_by_signals(opened_app.clock):
        opened_app.refuse_root()
        (target,) = targets.named(opened_app.fleet, [user], account)
        if not yes:
            confirm(f"go back to the key before the last rotation of {target.principal.label}?")
        asking = Asking(app=opened_app, actor=actor(), lock_timeout=timeout)
        return report(session, [_rolled_back(asking, target)], dry_run=False)


def _rolled_back(asking: "Asking", target: "Target") -> "Rotated":
    from rekeyd.core.model import Asked
    from rekeyd.errors import StoppingError

    asked = Asked(by=asking.actor, at=asking.app.clock.now(), rollback=True)
    try:
        rotated = asking.rotate(target, asked, wait=False)
    except StoppingError:
        return asking.stopped(target)
    if rotated.outcome != "published":
        return rotated
    return replace(rotated, reason="rollback", message="the old key is in Vault again and proven")
