"""`rekeyd report`: evidence for an audit, from the audit trail, after its chain was verified."""

import csv
import sys
from datetime import UTC, datetime
from enum import StrEnum
from html import escape
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekeyd.cli import output
from rekeyd.cli.exits import ExitCode
from rekeyd.cli.options import Session, command
from rekeyd.cli.program import app
from rekeyd.cli.rotate import duration
from rekeyd.cli.status import reading
from rekeyd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Format(StrEnum):
    CSV = "csv"
    JSON = "json"
    HTML = "html"


@command(app, "report")
def report(
    session: Session,
    *,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="WHEN", help="A date (2026-01-31) or an age (90d). [default: everything]"),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="What to write to stdout.")] = Format.JSON,
) -> ExitCode:
    """Write evidence: rotations with their proofs, refusals, alarms, and what people did.

    Exit code 1 if the audit trail was changed.

    The chain of the audit trail is verified here; `rekeyd history --verify` also compares it with its mark in Vault.
    """
    from rekeyd.adapters.clock import SystemClock
    from rekeyd.fleet.evidence import evidence

    config = session.load()
    clock = SystemClock()
    begins = None if since is None else _begin(since, clock.now())
    with reading(config, clock) as journal:
        document = evidence(journal, clock, since=begins)
    match Format.JSON if session.json else format_:
        case Format.JSON:
            output.document(document)
        case Format.CSV:
            _write_csv(document)
        case Format.HTML:
            output.raw(_html(document))
    broken = document["chain"]["broken_at"]
    if broken is None:
        output.say(f"the chain of {document['chain']['events']} events is whole")
        return ExitCode.DONE
    output.say(f"error: the audit trail was changed: event {broken} does not follow from the one before it")
    return ExitCode.FAILED


def _begin(text: str, now: datetime) -> datetime:
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        return now - duration("--since", text)
    at = given if given.tzinfo is not None else given.replace(tzinfo=UTC)
    if at > now:
        raise UsageError(f"--since {text} is in the future")
    return at


def _write_csv(document: "Mapping[str, Any]") -> None:
    from rekeyd.fleet.evidence import COLUMNS, rows

    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows(document):
        writer.writerow({name: _cell(row.get(name)) for name in COLUMNS})


def _cell(value: object) -> str:
    """A spreadsheet takes a cell that begins with one of these for a formula."""
    text = "" if value is None else output.printable(str(value)).replace("\n", " ")
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _html(document: "Mapping[str, Any]") -> str:
    from rekeyd.fleet.evidence import COLUMNS, rows

    chain = document["chain"]
    state = "whole" if chain["broken_at"] is None else f"BROKEN at event {chain['broken_at']}"
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(str(row.get(name) or ''))}</td>" for name in COLUMNS) + "</tr>"
        for row in rows(document)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>rekeyd report</title>'
        "<style>body{font:14px sans-serif}table{border-collapse:collapse}td,th{border:1px solid #999;padding:2px 6px;"
        "text-align:left}</style></head><body>"
        f"<h1>rekeyd {escape(document['instance'])}: evidence since {escape(document['since'] or 'the beginning')}</h1>"
        f"<p>As of {escape(document['as_of'])}. The audit trail of {chain['events']} events is {escape(state)}; its "
        f"head is event {chain['head']}, {escape(chain['head_hash'])}.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></body></html>\n"
    )
