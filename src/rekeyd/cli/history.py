"""`rekeyd history`: the audit trail, and whether it is whole."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekeyd.cli import output
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode
from rekeyd.cli.options import Session, command
from rekeyd.cli.program import app
from rekeyd.cli.rotate import AccountOption
from rekeyd.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from rekeyd.adapters.clock import SystemClock
    from rekeyd.adapters.journal import SqlJournal
    from rekeyd.config import Config
    from rekeyd.ports import JournalEvent


@command(app, "history")
def history(
    session: Session,
    *,
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="Only of this user.", show_default=False)
    ] = None,
    account: AccountOption = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Only from then on: 2026-11-23, 2026-11-23T08:00:00Z, or 7d for a week.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, metavar="N", help="The newest N; 0: all.")] = 100,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Check that no entry was changed or removed: the hash chain, and its mark in Vault.",
            show_default=False,
        ),
    ] = False,
) -> ExitCode:
    """Show the audit trail, oldest first. With --verify exit code 4 if it is not whole."""
    from rekeyd.adapters.clock import SystemClock
    from rekeyd.cli.status import reading
    from rekeyd.core.model import AccountId

    config = session.load()
    clock = SystemClock()
    since_at = None if since is None else _time(since, clock.now())
    with reading(config, clock) as journal:
        events = journal.history(
            account_id=None if account is None else AccountId(account),
            user_name=user,
            since=since_at,
            limit=limit or None,
        )
        verified = _verified(config, clock, journal) if verify else None
    content: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "events": [_entry(event) for event in events]}
    if verified is not None:
        content["verified"] = verified
    if session.json:
        output.document(content)
    else:
        _show(content)
    return ExitCode.DONE if verified is None or verified["whole"] else ExitCode.REFUSED


def _verified(config: "Config", clock: "SystemClock", journal: "SqlJournal") -> dict[str, Any]:
    """`whole` is false only for what was found, not for a mark that could not be read."""
    verdict = journal.verify()
    mark, agrees = _mark(config, clock, journal)
    chain = (
        f"the chain of {verdict.events} entries is whole"
        if verdict.broken_at is None
        else f"entry {verdict.broken_at} does not follow from the one before it: somebody changed the journal"
    )
    return {
        "whole": verdict.broken_at is None and agrees is not False,
        "events": verdict.events,
        "broken_at": verdict.broken_at,
        "chain": chain,
        "mark": mark,
    }


def _mark(config: "Config", clock: "SystemClock", journal: "SqlJournal") -> tuple[str, bool | None]:
    """What the mark in Vault says of this journal; None: nothing."""
    from rekeyd.adapters.vault_kv import KvVault
    from rekeyd.app import vault_settings
    from rekeyd.errors import Error

    vault = KvVault(vault_settings(config), clock)
    try:
        mark = vault.read_mark()
    except Error as error:
        return f"the mark in Vault could not be read: {error.message}", None
    finally:
        vault.close()
    if mark.version == 0:
        return "there is no mark in Vault yet", None if journal.last_mark() is None else False
    if mark.instance != journal.instance or mark.incarnation != journal.head().incarnation:
        return "the mark in Vault was written by another journal", False
    if not journal.contains(mark.seq, mark.event_hash):
        return f"entry {mark.seq}, which the mark in Vault names, is not in the journal: entries were lost", False
    return f"the mark in Vault names entry {mark.seq}, and the journal has it", True


def _entry(event: "JournalEvent") -> dict[str, Any]:
    from rekeyd.fleet.documents import time_text

    return {
        "at": time_text(event.at),
        "actor": event.actor,
        "account_id": event.account_id,
        "user_name": event.user_name,
        "rotation_id": event.rotation_id,
        "event": event.event,
        "access_key_id": event.access_key_id,
        "reason": None if event.reason is None else event.reason.value,
        "hash": event.hash,
    }


def _show(content: dict[str, Any]) -> None:
    if content["events"]:
        output.table(
            ("at", "actor", "account", "user", "event", "key", "reason"),
            [
                (e["at"], e["actor"], e["account_id"], e["user_name"], e["event"], e["access_key_id"], e["reason"])
                for e in content["events"]
            ],
        )
    else:
        output.line("nothing is recorded")
    if "verified" in content:
        output.line(content["verified"]["chain"])
        output.line(content["verified"]["mark"])


def _time(text: str, now: "datetime") -> "datetime":
    """A date or time (UTC unless it says otherwise), or how long ago. UsageError."""
    from datetime import UTC, datetime

    from rekeyd.config import parse_duration

    try:
        return now - parse_duration(text)
    except (ValueError, OverflowError):
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        hint = "for example 2026-11-23, 2026-11-23T08:00:00Z, or 7d"
        raise UsageError(f'--since "{text}" is neither a time nor a duration', hint=hint) from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
