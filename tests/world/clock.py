"""Virtual time: sleeping is instant, and whatever the world has scheduled happens on the way, in order.

The world has the right time; rekeyd reads `OwnClock`, which somebody may have set wrong.
"""

import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import RLock

from rekeyd.errors import StoppingError

START = datetime(2026, 1, 1, tzinfo=UTC)
_NOTHING = timedelta(0)


class VirtualClock:
    """The `Clock` port. Threads that sleep at the same time each move the one clock: it only ever runs faster."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._now = start
        self._jumped = _NOTHING
        self._events: list[tuple[datetime, int, Callable[[], None]]] = []
        self._scheduled = 0
        self._stopped = False
        self._lock = RLock()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - self._start - self._jumped).total_seconds()

    def sleep(self, duration: timedelta) -> None:
        """Raises StoppingError at the very moment of `stop()`, also when that was scheduled for the middle of it."""
        self._run_until(self._now + max(duration, _NOTHING), stoppable=True)

    def advance(self, duration: timedelta) -> None:
        """As the world passes by itself; `stop()` does not end it."""
        self._run_until(self._now + duration, stoppable=False)

    def advance_to(self, moment: datetime) -> None:
        self._run_until(moment, stoppable=False)

    def at(self, moment: datetime, event: Callable[[], None]) -> None:
        """Events of one moment happen in the order in which they were scheduled."""
        with self._lock:
            self._scheduled += 1
            heapq.heappush(self._events, (moment, self._scheduled, event))

    def after(self, delay: timedelta, event: Callable[[], None]) -> None:
        self.at(self._now + delay, event)

    def jump(self, offset: timedelta) -> None:
        """Somebody sets the wall clock; monotonic time does not notice."""
        self._now += offset
        self._jumped += offset

    def stop(self) -> None:
        """The process was asked to stop: every sleep raises from now on."""
        self._stopped = True

    def resume(self) -> None:
        """A new process begins."""
        self._stopped = False

    @property
    def pending(self) -> int:
        """How many scheduled events have not happened yet."""
        return len(self._events)

    def _run_until(self, target: datetime, *, stoppable: bool) -> None:
        with self._lock:
            if stoppable:
                self._raise_if_stopped()
            while self._events and self._events[0][0] <= target:
                moment, _, event = heapq.heappop(self._events)
                self._now = max(self._now, moment)
                event()
                if stoppable:
                    self._raise_if_stopped()
            self._now = max(self._now, target)

    def _raise_if_stopped(self) -> None:
        if self._stopped:
            raise StoppingError("the process was asked to stop")


class OwnClock:
    """The `Clock` port as rekeyd's machine has it: the world's time, and how far that machine is off."""

    def __init__(self, world: VirtualClock) -> None:
        self.offset = _NOTHING
        self._world = world

    def now(self) -> datetime:
        return self._world.now() + self.offset

    def monotonic(self) -> float:
        return self._world.monotonic()

    def sleep(self, duration: timedelta) -> None:
        self._world.sleep(duration)
