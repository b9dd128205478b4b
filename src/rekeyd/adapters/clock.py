"""The one place that reads the clock."""

import threading
import time
from datetime import UTC, datetime, timedelta

from rekeyd.errors import StoppingError


class SystemClock:
    """Implements `rekeyd.ports.Clock`. `stop` ends every sleep, now and later."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - this is the place

    def monotonic(self) -> float:
        # BOOTTIME goes on while the machine sleeps, so a heartbeat from before the sleep is old afterwards.
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, duration: timedelta) -> None:
        if self._stop.wait(max(duration.total_seconds(), 0)):
            raise StoppingError("the process was asked to stop")

    def stop(self) -> None:
        self._stop.set()

    @property
    def stopping(self) -> threading.Event:
        return self._stop
