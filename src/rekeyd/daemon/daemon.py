"""The daemon from its first job to its last: begin, serve, reload, stop.

READY=1 is sent as soon as the daemon is able to work: the journal is open, HTTP is served, and a first pass over an
account ended, well or not, or the accounts could not be listed, or the first pass takes long. AWS or Vault being down
thus never makes the supervisor kill a daemon that would only have to wait; that it cannot do its work shows in
/readyz, in metrics and in alarms.
"""

import math
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from rekeyd import logs
from rekeyd.adapters.metrics import Condition, Metrics
from rekeyd.adapters.sd_notify import Supervisor
from rekeyd.app import App, renewed
from rekeyd.config import Config, load
from rekeyd.config.models import FleetMode
from rekeyd.core.events import Event
from rekeyd.core.model import AccountId
from rekeyd.daemon.accounts import AccountWork
from rekeyd.daemon.chores import Chores
from rekeyd.daemon.events import EventWatch
from rekeyd.daemon.parts import Parts
from rekeyd.daemon.schedule import Schedule
from rekeyd.errors import Error, StateError
from rekeyd.fleet.documents import status_document
from rekeyd.logs import get_logger

log = get_logger()

EXIT_DONE, EXIT_FAILED, EXIT_CONFIGURATION = 0, 1, 2

_TICK = timedelta(seconds=1)
_READY_AT_LATEST = timedelta(seconds=20)
# The heart beats every second; this is far beyond a busy machine, and within a minute's watchdog.
_HEART_LIMIT = timedelta(seconds=15)
_STATUS_EVERY = timedelta(seconds=10)
_JUMP = timedelta(seconds=5)
# Longer than the time from one beat of the journal to the next.
_UNWRITABLE_FOR = timedelta(seconds=12)


class Wish(StrEnum):
    """What a signal, or a job, wants of the daemon."""

    STOP = "stop"
    RELOAD = "reload"
    END = "end"
    """It must not go on: exit 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    code: int
    in_flight: tuple[str, ...]
    """Jobs that did not end in time."""


class Daemon:
    """Runs in the thread that calls `serve`; everything else is done by the threads of its schedule."""

    def __init__(self, app: App, config_path: Path, *, log_level: str, supervisor: Supervisor | None = None) -> None:
        self.wishes: queue.SimpleQueue[Wish] = queue.SimpleQueue()
        self._path = config_path
        self._log_level = log_level
        self._clock = app.clock
        self._journal = app.journal
        self._parts = Parts(app)
        self._supervisor = supervisor if supervisor is not None else Supervisor()
        self._schedule = Schedule(app.clock, max_parallel=app.config.fleet.max_parallel)
        self._metrics = Metrics(app.journal, app.clock, self._condition)
        self._accounts = AccountWork(self._parts, self._schedule, self._metrics, on_pass=self._pass_ended)
        self._chores = Chores(self._parts, self._schedule, self._accounts, on_forbidden=self._forbidden)
        self._events = EventWatch(self._parts, self._schedule, self._accounts)
        self._first_pass = threading.Event()
        self._ready = False
        self._reload_good = True
        self._stalled = False
        self._root_states: Mapping[AccountId, float] = {}
        self._journal_failed_at = -math.inf
        self._journal_told_at = -math.inf
        self._status_at = -math.inf
        self._began = self._clock.monotonic()
        self._offset = self._wall_minus_monotonic()

    # --- life --------------------------------------------------------------------------------------------------------

    def serve(self) -> Ended:
        """Until a wish ends it. The journal beats meanwhile; JournalError if it cannot from the start."""
        with self._journal.beating(on_error=self._journal_failed), self._watchdog():
            self._chores.plan()
            self._events.plan()
            self._schedule.start()
            while True:
                wish = self._next_wish()
                match wish:
                    case Wish.RELOAD:
                        self._reload()
                    case Wish.STOP | Wish.END:
                        return self._stop(EXIT_DONE if wish is Wish.STOP else EXIT_CONFIGURATION)
                    case None:
                        self._tick()

    def close(self) -> None:
        """After `serve`: what a reload put together. The journal is the caller's."""
        self._parts.newest.vault.close()

    def _next_wish(self) -> Wish | None:
        try:
            return self.wishes.get(timeout=_TICK.total_seconds())
        except queue.Empty:
            return None

    def _stop(self, code: int) -> Ended:
        """No new step; those in flight end at a safe place, since every sleep of theirs ends now."""
        began = self._clock.monotonic()
        log.info(Event.DAEMON_STOPPING, in_flight=self._schedule.running())
        self._supervisor.stopping()
        self._schedule.stop()
        self._clock.stop()
        limit = self._parts.newest.config.fleet.stop_timeout
        in_flight = self._schedule.wait_idle(limit)
        if in_flight:
            log.error(Event.DAEMON_GAVE_UP, in_flight=in_flight, after=limit.total_seconds())
            return Ended(code=EXIT_FAILED, in_flight=tuple(in_flight))
        seconds = round(self._clock.monotonic() - began, 3)
        log.info(Event.DAEMON_STOPPED, seconds=seconds)
        return Ended(code=code, in_flight=tuple(self._schedule.running()))

    def _tick(self) -> None:
        if not self._ready and self._may_be_ready():
            self._ready = True
            log.info(Event.DAEMON_READY, accounts=len(self._accounts.watched))
            self._supervisor.ready(self._status_line())
            self._status_at = self._clock.monotonic()
        elif self._ready and self._clock.monotonic() - self._status_at >= _STATUS_EVERY.total_seconds():
            self._supervisor.status(self._status_line())
            self._status_at = self._clock.monotonic()
        self._look_at_clock()
        problems = self.stalled()
        if problems and not self._stalled:
            log.critical(Event.DAEMON_STALLED, problems=problems)
        self._stalled = bool(problems)

    def _may_be_ready(self) -> bool:
        if self._first_pass.is_set() or (self._chores.listed and not self._accounts.watched):
            return True
        return self._clock.monotonic() - self._began >= _READY_AT_LATEST.total_seconds()

    def _look_at_clock(self) -> None:
        """All times of the schedule are the machine's; set back by an hour, it would stand still for one."""
        offset = self._wall_minus_monotonic()
        if offset < self._offset - _JUMP.total_seconds():
            log.warning(Event.CLOCK_SET_BACK, seconds=round(self._offset - offset))
            self._chores.plan()
            self._events.plan()
            self._accounts.watch(self._accounts.watched, anew=True)
            self._schedule.wind_heart()
        self._offset = offset

    def _wall_minus_monotonic(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()

    # --- reload ------------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        self._supervisor.reloading()
        before = self._parts.newest
        try:
            config = load(self._path, os.environ)
            app = renewed(before, config, actor="daemon")
        except Error as error:
            self._reload_good = False
            log.error(Event.CONFIG_REJECTED, file=str(self._path), error=error.message, hint=error.hint)
        else:
            self._reload_good = True
            logs.configure(style=config.logging.format.value, level=self._log_level)
            deferred = _deferred(before.config, config)
            if deferred:
                log.warning(Event.CONFIG_DEFERRED, settings=deferred)
            # Until the first look under the new configuration the last one of the old stands.
            self._root_states = self._seen_roots(before)
            self._parts.replace(app)
            # The accounts' own jobs follow as soon as the accounts are known.
            self._chores.plan()
            self._events.plan()
            log.info(Event.CONFIG_RELOADED, file=str(self._path))
        self._supervisor.ready(self._status_line())

    # --- what others ask (any thread) --------------------------------------------------------------------------------

    def stalled(self) -> list[str]:
        problems = []
        age = self._schedule.heartbeat_age
        if age > _HEART_LIMIT:
            problems.append(f"the scheduler's heart has not beaten for {age.total_seconds():.0f} s")
        if self._chores.hanging:
            problems.append("the look for requests hangs")
        return problems

    def not_ready(self) -> list[str]:
        if self._clock.stopping.is_set():
            return ["the daemon is stopping"]
        problems = self._chores.not_ready()
        if not self._journal_writable():
            problems.append("the journal cannot be written")
        try:
            problems += self._accounts.not_ready()
        except Error as error:
            problems.append(error.message)
        return problems

    def exposition(self) -> bytes:
        return self._metrics.exposition()

    def status(self) -> dict[str, Any]:
        return status_document(self._journal, self._clock)

    def token_file(self) -> Path | None:
        file = self._parts.newest.config.http.token_file
        return None if file is None else Path(file)

    def _condition(self) -> Condition:
        token_good, token_known, token_ends_at = self._chores.token
        app = self._parts.newest
        return Condition(
            observing=app.config.fleet.mode is FleetMode.OBSERVE,
            root_states=self._seen_roots(app),
            journal_writable=self._journal_writable(),
            token_good=token_good,
            token_known=token_known,
            token_ends_at=token_ends_at,
            reload_good=self._reload_good,
            heartbeat_age=self._schedule.heartbeat_age,
            events_readable=self._events.readable,
            event_messages=self._events.meanings,
        )

    def _seen_roots(self, app: App) -> Mapping[AccountId, float]:
        return {**self._root_states, **app.fleet.watch.root_states()}

    def _journal_writable(self) -> bool:
        return self._clock.monotonic() - self._journal_failed_at > _UNWRITABLE_FOR.total_seconds()

    # --- what others tell (any thread) -------------------------------------------------------------------------------

    def _pass_ended(self) -> None:
        self._first_pass.set()

    def _forbidden(self, error: StateError) -> None:
        log.critical(Event.DAEMON_FAILED, error=error.message, hint=error.hint)
        self.wishes.put(Wish.END)

    def _journal_failed(self, error: Error) -> None:
        now = self._clock.monotonic()
        self._journal_failed_at = now
        if now - self._journal_told_at > timedelta(minutes=1).total_seconds():
            self._journal_told_at = now
            log.critical(Event.JOURNAL_FAILED, error=error.message, hint=error.hint)

    # --- the supervisor ----------------------------------------------------------------------------------------------

    def _status_line(self) -> str:
        problems: Sequence[str] = self.not_ready()
        watched = len(self._accounts.watched)
        accounts = f"{watched} account{'s' if watched != 1 else ''}"
        return f"watching {accounts}; " + (problems[0] if problems else "all is well")

    @contextmanager
    def _watchdog(self) -> Iterator[None]:
        """Pings only while the schedule lives: a ping from a loop that knows nothing would hide every hang."""
        every = self._supervisor.ping_every
        if every is None:
            yield
            return
        ended = threading.Event()

        def ping() -> None:
            while True:
                if not self.stalled():
                    self._supervisor.alive()
                if ended.wait(every.total_seconds()):
                    return

        thread = threading.Thread(target=ping, name="rekeyd-watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _deferred(before: Config, after: Config) -> list[str]:
    """Settings that differ and that only a restart brings into force."""
    changed = [f"journal.{name}" for name in _differing(before.journal, after.journal)]
    if before.http.listen != after.http.listen:
        changed.append("http.listen")
    if before.fleet.max_parallel != after.fleet.max_parallel:
        changed.append("fleet.max_parallel")
    return changed


def _differing(before: Any, after: Any) -> list[str]:
    return [name for name in type(before).model_fields if getattr(before, name) != getattr(after, name)]
