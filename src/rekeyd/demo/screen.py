"""What a person sees of the demo: a live table on a terminal, plain lines anywhere else. All of it is talk: stderr."""

import sys
import threading
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from rekeyd.core.reasons import Reason
from rekeyd.demo.cast import CAST, Actor
from rekeyd.demo.story import COPY_NAME
from rekeyd.demo.watch import Sight, Usage

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

    from rekeyd.ports import Alarm, JournalEvent, PrincipalStatus

# Of the audit trail, what changes something for somebody; the rest stands in `rekeyd history`.
_TOLD: Mapping[str, str] = {
    "rotation.asked": "a person asks for a rotation",
    "rotation.opened": "rotation opened",
    "key.created": "AWS made a key",
    "key.lost_answer": "the answer of AWS is lost",
    "key.published": "Vault serves the new key",
    "key.deactivated": "key deactivated",
    "key.reactivated": "key reactivated",
    "key.deleted": "key deleted",
    "rotation.closed": "rotation closed",
}

_LAST_LINES = 12
_FEWEST_LINES = 3
# Title, head and rules of the table.
_LINES_AROUND = 6
# Columns of a terminal from which the reason fits too, and from which whole access key IDs do.
_MEDIUM = 110
_WIDE = 140

_STYLES = {
    "fresh": "green",
    "rotating": "cyan",
    "overlap": "cyan",
    "quarantine": "cyan",
    "due": "yellow",
    "on_hold": "yellow",
    "unmanaged": "yellow",
    "refused": "red",
}


class Screen(Protocol):
    """A context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def say(self, text: str) -> None: ...
    def show(self, sight: Sight) -> None: ...


class _News:
    """Turns looks into lines, each said once."""

    def __init__(self) -> None:
        self._seq = 0
        self._rested: dict[str, tuple[str, str]] = {}
        self._alarms: set[str] = set()

    def lines(self, sight: Sight) -> list[str]:
        lines = [text for event in sight.events if event.seq > self._seq and (text := _told(event)) is not None]
        if sight.events:
            self._seq = sight.events[-1].seq
        for name, status in sight.statuses.items():
            rested = (status.state, status.reason)
            if status.state in ("refused", "on_hold", "unmanaged") and self._rested.get(name) != rested:
                lines.append(f"{name}: {status.state}: {status.message}")
            self._rested[name] = rested
        lines += [_alarm(alarm) for alarm in sight.alarms if self._is_news(alarm)]
        return lines

    def _is_news(self, alarm: "Alarm") -> bool:
        new = alarm.severity == "critical" and alarm.fingerprint not in self._alarms
        self._alarms.add(alarm.fingerprint)
        return new


def _told(event: "JournalEvent") -> str | None:
    what = _TOLD.get(event.event)
    if what is None:
        return None
    if event.reason is Reason.ORPHAN_PROVEN:
        what = "orphan found"
    key = "" if event.access_key_id is None else f" {event.access_key_id}"
    why = "" if event.reason is None else f" ({event.reason.sentence})"
    who = "" if event.actor == "daemon" else f" by {event.actor}"
    return f"{event.user_name}: {what}{key}{why}{who}"


def _alarm(alarm: "Alarm") -> str:
    return f"ALARM {alarm.severity}: {alarm.message}"


class PlainScreen:
    """Lines with the seconds since the beginning."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._news = _News()
        self._lock = threading.Lock()
        self._seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        with self._lock:
            self._write(text)

    def show(self, sight: Sight) -> None:
        with self._lock:
            self._seconds = sight.seconds
            for line in self._news.lines(sight):
                self._write(line)

    def _write(self, line: str) -> None:
        self._stream.write(f"{self._seconds:6.1f}s  {line}\n")
        self._stream.flush()


class LiveScreen:
    """A table that follows every user, and the last lines below it."""

    def __init__(self, console: "Console") -> None:
        from rich.live import Live

        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._news = _News()
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._lock = threading.Lock()
        self._sight: Sight | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._live.stop()

    def say(self, text: str) -> None:
        with self._lock:
            seconds = 0.0 if self._sight is None else self._sight.seconds
            self._lines.append(f"{seconds:6.1f}s  {text}")

    def show(self, sight: Sight) -> None:
        with self._lock:
            self._sight = sight
            self._lines.extend(f"{sight.seconds:6.1f}s  {line}" for line in self._news.lines(sight))
            self._live.update(self._picture(sight), refresh=True)

    def _picture(self, sight: Sight) -> "Group":
        from rich.console import Group
        from rich.text import Text

        size = self._live.console.size
        room = max(size.height - len(CAST) - _LINES_AROUND, _FEWEST_LINES)
        lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in list(self._lines)[-room:]]
        return Group(_table(sight, size.width), *lines)


def _table(sight: Sight, width: int) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", title=f"rekeyd demo, {sight.seconds:.0f} s")
    key_width = 20 if width >= _WIDE else 9
    for name, least in (("user", 17), ("state", 10), ("in Vault", key_width), ("other key", key_width), ("age", 4)):
        table.add_column(name, no_wrap=True, min_width=least)
    table.add_column("calls", justify="right", no_wrap=True, min_width=5)
    table.add_column("failed", justify="right", no_wrap=True, min_width=6)
    if width >= _MEDIUM:
        table.add_column("why", no_wrap=True)
    # Two blanks between columns; left to itself, the table would narrow the figures before the reason.
    room = width - sum((column.min_width or 0) + 2 for column in table.columns)
    for actor in CAST:
        *cells, why = _cells(actor, sight, wide=width >= _WIDE)
        why.truncate(max(room, 1), overflow="ellipsis")
        table.add_row(*[*cells, why][: len(table.columns)])
    return table


def _cells(actor: Actor, sight: Sight, *, wide: bool) -> "tuple[Text, ...]":
    from rich.text import Text

    status = sight.statuses.get(actor.name)
    usage = sight.consumers.get(actor.name)
    state = "" if status is None else status.state
    why = actor.part if status is None else status.reason.sentence
    return (
        Text(actor.name),
        Text(state, style=_STYLES.get(state, "")),
        Text(_key(None if status is None else status.held_access_key_id, wide=wide)),
        Text(_key(None if status is None else status.old_access_key_id, wide=wide)),
        Text(_age(status, sight)),
        Text("" if usage is None else str(usage.calls + _copies(actor, sight).calls)),
        _failures(usage),
        Text(why),
    )


def _key(key_id: str | None, *, wide: bool) -> str:
    if key_id is None:
        return ""
    return key_id if wide else f"…{key_id[-6:]}"


def _copies(actor: Actor, sight: Sight) -> Usage:
    return sight.consumers.get(COPY_NAME, Usage()) if COPY_NAME.startswith(actor.name) else Usage()


def _failures(usage: Usage | None) -> "Text":
    from rich.text import Text

    if usage is None:
        return Text("")
    return Text(str(usage.failures), style="bold red" if usage.failures else "green")


def _age(status: "PrincipalStatus | None", sight: Sight) -> str:
    if status is None or status.held_created_at is None:
        return ""
    age = sight.at - status.held_created_at
    return f"{age.days}d" if age.days else f"{max(int(age.total_seconds()), 0)}s"


def screen_for(stream: TextIO = sys.stderr) -> Screen:
    """Live on a terminal, else plain lines."""
    if not stream.isatty():
        return PlainScreen(stream)
    from rich.console import Console

    return LiveScreen(Console(file=stream, highlight=False))
