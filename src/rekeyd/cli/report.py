"""`rekeyd report`: evidence for an audit, from the audit trail, after its chain was verified."""

import csv
import sys
from datetime import UTC, datetime
from enum import StrEnum
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
    """Write evidence: ages of keys over time, rotations with their proofs, refusals, alarms, what people did.

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


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>rekeyd report</title>
<style>
body { font: 14px sans-serif }
table { border-collapse: collapse }
td, th { border: 1px solid #999; padding: 2px 6px; text-align: left }
.broken { background: #a00; color: #fff; padding: 6px; font-weight: bold }
</style>
</head>
<body>
<h1>rekeyd {{ document.instance }}: evidence since {{ document.since or "the beginning" }}</h1>
<p{% if document.chain.broken_at is not none %} class="broken"{% endif %}>As of {{ document.as_of }}. The audit \
trail is {{ "whole" if document.chain.broken_at is none else "BROKEN" }}: {{ chain }}, \
{{ document.chain.head_hash }}.</p>
<table>
<thead><tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr>{% for name in columns %}<td>{{ row[name] if row[name] is not none else "" }}</td>\
{% endfor %}</tr>
{% endfor %}</tbody>
</table>
</body>
</html>
"""


def _html(document: "Mapping[str, Any]") -> str:
    from jinja2 import Environment, StrictUndefined

    from rekeyd.fleet.evidence import COLUMNS, chain_text, rows

    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(_PAGE)
    flat = [{name: row.get(name) for name in COLUMNS} for row in rows(document)]
    return page.render(document=document, chain=chain_text(document["chain"]), columns=COLUMNS, rows=flat)
