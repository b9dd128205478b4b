"""What can be seen of the demo from outside: rekeyd's journal, and what the consumers say of themselves.

A thread looks a few times a second and hands each new `Sight` to the screen. It only
reads: rekeyd and the consumers do not know that they are watched.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.journal import SqlJournal, open_journal
from rekeyd.errors import Error
from rekeyd.ports import Alarm, JournalEvent, PrincipalStatus

_LOOK_EVERY_SECONDS = 0.3
# More than one look's worth of events.
_EVENTS_A_LOOK = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one consumer has counted so far."""

    calls: int = 0
    failures: int = 0
    disturbances: int = 0
    key_ids: tuple[str, ...] = ()
    last_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One look."""

    at: datetime
    seconds: float
    """Since the demo began."""
    statuses: Mapping[str, PrincipalStatus] = field(default_factory=dict)
    """By user name."""
    events: tuple[JournalEvent, ...] = ()
    """The whole audit trail so far, oldest first."""
    alarms: tuple[Alarm, ...] = ()
    """Open ones."""
    consumers: Mapping[str, Usage] = field(default_factory=dict)

    def has_event(self, event: str, user_name: str) -> bool:
        return any(each.event == event and each.user_name == user_name for each in self.events)


class Watch:
    """A context manager; `latest` is the last look."""

    def __init__(self, *, journal: Path, consumers: Mapping[str, Path], show: Callable[[Sight], None]) -> None:
        """`consumers`: status files by name."""
        self._path = journal
        self._consumers = consumers
        self._show = show
        self._clock = SystemClock()
        self._began = time.monotonic()
        self._journal: SqlJournal | None = None
        self._events: list[JournalEvent] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.latest = Sight(at=self._clock.now(), seconds=0, consumers=dict.fromkeys(consumers, Usage()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        if self._journal is not None:
            self._journal.close()

    def now(self) -> datetime:
        return self._clock.now()

    def elapsed(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._began

    def look(self) -> Sight:
        """The journal is empty as long as it cannot be read (nobody has made it yet)."""
        statuses: Mapping[str, PrincipalStatus] = {}
        alarms: tuple[Alarm, ...] = ()
        journal = self._open()
        if journal is not None:
            try:
                self._collect(journal)
                statuses = {status.user_name: status for status in journal.statuses()}
                alarms = journal.alarms()
            except Error:
                statuses, alarms = self.latest.statuses, self.latest.alarms
        self.latest = Sight(
            at=self._clock.now(),
            seconds=self.elapsed(),
            statuses=statuses,
            events=tuple(self._events),
            alarms=alarms,
            consumers={name: _usage(file) for name, file in self._consumers.items()},
        )
        return self.latest

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_SECONDS):
            self._show(self.look())

    def _collect(self, journal: SqlJournal) -> None:
        newest = self._events[-1].seq if self._events else 0
        found = journal.history(limit=_EVENTS_A_LOOK)
        self._events.extend(event for event in found if event.seq > newest)

    def _open(self) -> SqlJournal | None:
        if self._journal is None and self._path.exists():
            try:
                self._journal = open_journal(
                    f"sqlite:///{self._path}", instance="demo", clock=self._clock, read_only=True
                )
            except Error:
                return None
        return self._journal


def _usage(file: Path) -> Usage:
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Usage()
    paths = list(written["paths"].values())
    return Usage(
        calls=written["calls"],
        failures=written["failures"],
        disturbances=written["disturbances"],
        key_ids=tuple(key_id for path in paths for key_id in path["key_ids"]),
        last_error=next((path["last_error"] for path in paths if path["last_error"]), None),
    )
