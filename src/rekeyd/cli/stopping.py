"""SIGINT and SIGTERM while a command changes something: the step in flight ends at a safe place."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rekeyd.adapters.clock import SystemClock
from rekeyd.cli import output


@contextmanager
def stopped_by_signals(clock: SystemClock) -> Iterator[None]:
    """Every wait ends with StoppingError after the first signal."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if not clock.stopping.is_set():
            output.say("stopping; the step in flight is brought to a safe place first")
        clock.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
