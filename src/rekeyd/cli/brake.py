"""`rekeyd brake`: what stopped rotations from being opened, and letting them go on."""

from typing import TYPE_CHECKING, Any

from rekeyd.cli import output
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode
from rekeyd.cli.options import Session, command, group
from rekeyd.cli.program import app
from rekeyd.cli.rotate import AccountOption
from rekeyd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rekeyd.ports import Brake

brake = group("Show and release the brake. After failures in a row no new rotation is opened; everything else goes on.")
app.add_typer(brake, name="brake")


@command(brake, "show")
def show(session: Session) -> ExitCode:
    """Show which brakes are on."""
    from rekeyd.adapters.clock import SystemClock
    from rekeyd.cli.status import reading

    config = session.load()
    with reading(config, SystemClock()) as journal:
        brakes = journal.brakes()
    _report(session, brakes, "no brake is on")
    return ExitCode.DONE


@command(brake, "release")
def release(session: Session, *, account: AccountOption = None) -> ExitCode:
    """Let rotations be opened again: in one account, or everywhere."""
    from rekeyd.adapters.clock import SystemClock
    from rekeyd.app import journal_of
    from rekeyd.cli.person import actor, refuse_other_user
    from rekeyd.core.events import Event
    from rekeyd.logs import get_logger

    config = session.load()
    refuse_other_user(config)
    clock = SystemClock()
    with journal_of(config, clock) as journal:
        brakes = [b for b in journal.brakes() if account is None or b.account_id == account]
        if account is not None and not brakes:
            raise UsageError(f"no brake is on in account {account}", hint="`rekeyd brake show` lists them")
        for each in brakes:
            journal.release_brake(each.account_id, actor=actor(), at=clock.now())
            get_logger().warning(Event.BRAKE_RELEASED, braked=each.account_id or "fleet", by=actor())
    _report(session, brakes, "no brake was on", "released")
    return ExitCode.DONE


def _report(session: Session, brakes: "Sequence[Brake]", none: str, title: str = "") -> None:
    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "brakes": [_entry(b) for b in brakes]})
    elif not brakes:
        output.line(none)
    else:
        rows = [
            (b.account_id or "fleet", b.failures, b.engaged_at.isoformat(timespec="seconds"), b.detail) for b in brakes
        ]
        output.table((title or "brake of", "failures", "since", "because"), rows)


def _entry(each: "Brake") -> dict[str, Any]:
    from rekeyd.fleet.documents import time_text

    return {
        "account_id": each.account_id,
        "engaged_at": time_text(each.engaged_at),
        "retry_at": time_text(each.retry_at),
        "failures": each.failures,
        "detail": each.detail,
    }
