"""What a command prints: one JSON document or tables on stdout, talk on stderr.

Tables and text are for people and may change; programs read `--json`.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

# A field name in Vault or an answer of another program may hold anything; a terminal must not obey it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")

# Wide enough that nothing is cut when there is no terminal whose width would be known.
_WIDTH_WITHOUT_TERMINAL = 200

STATE_STYLES = {
    "fresh": "green",
    "ok": "green",
    "published": "green",
    "retired": "green",
    "planned": "cyan",
    "rotating": "cyan",
    "overlap": "cyan",
    "quarantine": "cyan",
    "due": "yellow",
    "on_hold": "yellow",
    "frozen": "yellow",
    "unmanaged": "yellow",
    "braked": "yellow",
    "refused": "red",
    "failed": "red",
    "failing": "red",
    "unreachable": "red",
    "root_unwatched": "red",
    "critical": "bold red",
    "high": "red",
    "medium": "yellow",
}
"""Colours of states, outcomes and severities."""


def document(content: dict[str, Any]) -> None:
    """The one JSON document of a command."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def raw(text: str) -> None:
    """A file's text, as it is."""
    sys.stdout.write(text)


def line(text: str = "") -> None:
    """A line of result."""
    sys.stdout.write(printable(text) + "\n")


def say(text: str) -> None:
    """A line of talk."""
    sys.stderr.write(printable(text) + "\n")


def printable(text: str) -> str:
    """With control characters shown instead of obeyed; line breaks stay."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, styled: str | None = None) -> None:
    """`styled`: the column whose value is coloured by `STATE_STYLES`."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    on_terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout, highlight=False, soft_wrap=False, width=None if on_terminal else _WIDTH_WITHOUT_TERMINAL
    )
    made = Table(box=box.SIMPLE_HEAD if on_terminal else None, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, overflow="fold", no_wrap=name in ("account", "at", "next", "key"))
    for row in rows:
        cells = []
        for name, value in zip(columns, row, strict=True):
            text = "" if value is None else printable(str(value))
            cells.append(Text(text, style=STATE_STYLES.get(text, "") if name == styled else ""))
        made.add_row(*cells)
    console.print(made)


@contextmanager
def progress(what: str, total: int) -> Iterator["Progress"]:
    """A bar on stderr if that is a terminal; otherwise nothing."""
    if not sys.stderr.isatty() or total == 0:
        yield Progress(None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield Progress(lambda: bar.advance(task))


class Progress:
    """How far a command is."""

    def __init__(self, advance: Any) -> None:
        self._advance = advance

    def step(self) -> None:
        if self._advance is not None:
            self._advance()


def when(at: datetime | None, now: datetime) -> str:
    """For people: `2026-11-30 08:00Z (in 6d)`; empty for None."""
    if at is None:
        return ""
    away = at - now
    text = f"in {span(away)}" if away >= timedelta(0) else f"{span(-away)} ago"
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%MZ} ({text})"


def span(duration: timedelta) -> str:
    """The one unit that says enough: `6d`, `4h`, `12m`, `30s`."""
    seconds = int(duration.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size or (unit == "d" and seconds >= size):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
