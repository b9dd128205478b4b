"""`rekeyd status`: what the journal knows, without asking AWS or Vault."""

from typing import TYPE_CHECKING, Any

from rekeyd.cli import output
from rekeyd.cli.exits import ExitCode
from rekeyd.cli.options import Session, command
from rekeyd.cli.program import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime

    from rekeyd.adapters.clock import SystemClock
    from rekeyd.adapters.journal import SqlJournal
    from rekeyd.config import Config


@command(app, "status")
def status(session: Session) -> ExitCode:
    """Show users, accounts and alarms from the journal. Exit code 3 if a critical alarm is open."""
    from rekeyd.adapters.clock import SystemClock
    from rekeyd.fleet.documents import status_document

    config = session.load()
    clock = SystemClock()
    with reading(config, clock) as journal:
        content = status_document(journal, clock)
    if session.json:
        output.document(content)
    else:
        _show(content, clock.now())
    return exit_code(content["findings"])


def reading(config: "Config", clock: "SystemClock") -> "AbstractContextManager[SqlJournal]":
    """The journal, for reading beside a running daemon. JournalError when there is none yet."""
    from contextlib import contextmanager

    from rekeyd.app import journal_of

    @contextmanager
    def opened() -> "Iterator[SqlJournal]":
        with journal_of(config, clock, read_only=True) as journal:
            yield journal

    return opened()


def exit_code(findings: "list[dict[str, Any]]") -> ExitCode:
    return ExitCode.CRITICAL if any(f["severity"] == "critical" for f in findings) else ExitCode.DONE


def show_findings(findings: "list[dict[str, Any]]", now: "datetime", *, none: str) -> None:
    if not findings:
        output.line(none)
        return
    columns = ["severity", "account", "user", "what", "what to do"]
    rows = [[f["severity"], f["account_id"], f["principal"], f["message"], f["remedy"]] for f in findings]
    known = [_acknowledgement(finding, now) for finding in findings]
    if any(known):
        columns.append("acknowledged")
        rows = [[*row, who] for row, who in zip(rows, known, strict=True)]
    output.table(columns, rows, styled="severity")


def _acknowledgement(finding: dict[str, Any], now: "datetime") -> str | None:
    """None: nobody's, or it has ended."""
    from datetime import datetime

    until = finding.get("acknowledged_until")
    if until is None or datetime.fromisoformat(until) <= now:
        return None
    return f"by {finding['acknowledged_by']} until {until}: {finding['acknowledged_because']}"


def _show(content: dict[str, Any], now: "datetime") -> None:
    from rekeyd.fleet.documents import worst_first

    output.line(f"as of {content['as_of']}, from the journal")
    output.line()
    if content["accounts"]:
        output.table(
            ("account", "alias", "state", "users", "due", "last pass", "message"),
            [
                (a["account_id"], a["alias"], a["state"], a["principals"], a["due"], a["last_pass_at"], a["message"])
                for a in content["accounts"]
            ],
            styled="state",
        )
    else:
        output.line("no account was looked at yet; the daemon does that, or see `rekeyd plan`")
    if content["principals"]:
        output.line()
        output.table(
            ("account", "user", "policy", "state", "key", "age", "next", "why"),
            [_row(entry, now) for entry in content["principals"]],
            styled="state",
        )
    output.line()
    show_findings(sorted(content["findings"], key=worst_first), now, none="no alarm is open")


def _row(entry: dict[str, Any], now: "datetime") -> tuple[object, ...]:
    from datetime import datetime

    age = entry["age_days"]
    next_at = None if entry["next_at"] is None else datetime.fromisoformat(entry["next_at"])
    return (
        entry["account_id"],
        entry["user_name"],
        entry["policy"],
        entry["state"],
        entry["held_access_key_id"],
        None if age is None else f"{age}d",
        output.when(next_at, now),
        entry["message"],
    )
