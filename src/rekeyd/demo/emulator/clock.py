"""The emulated world's own time.

    clock = WorldClock()                     # follows the machine's clock
    clock = WorldClock(stands_at=NOW)        # moves only when told
    clock.advance(timedelta(days=90))

A daemon in another process keeps the machine's time, so move the clock of its
world only by amounts that it may see as the world's, not its own, being off.
"""

import threading
from datetime import UTC, datetime, timedelta


class WorldClock:
    """A clock that can be moved; safe to share between threads."""

    def __init__(self, *, stands_at: datetime | None = None) -> None:
        """`stands_at` None: the clock runs with the machine's, else it stands at that aware instant."""
        self._lock = threading.Lock()
        self._stands_at = stands_at
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        with self._lock:
            if self._stands_at is not None:
                return self._stands_at
            # The world outside is not the program: it has its own clock on purpose.
            return datetime.now(UTC) + self._ahead  # noqa: TID251

    def advance(self, by: timedelta) -> datetime:
        """Moves the clock (a negative amount sets it back) and returns the new time."""
        with self._lock:
            if self._stands_at is None:
                self._ahead += by
            else:
                self._stands_at += by
        return self.now()
