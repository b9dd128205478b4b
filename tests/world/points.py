"""Call points: every port call has a name, goes into the journal, and can be made to fail.

Order within one call: hooks("before") -> guard -> faults("before") -> effect -> faults("after") -> hooks("after").
So a hook may take the lease away before the guard looks, and a fault stands for an answer of the other side:
"before" means that it did not act, "after" that it acted and the answer was lost.
A refused call (the effect raises) has no "after".
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Literal, Self, TypeVar

from rekeyd.errors import Error, OutcomeUnknownError
from rekeyd.ports import Guard
from tests.world.clock import VirtualClock

T = TypeVar("T")
Phase = Literal["before", "after"]
Hook = Callable[[str, Phase, Mapping[str, object]], None]
"""(name, phase, args without secrets). What it raises leaves the call."""
Failure = BaseException | Callable[[], BaseException]

# AWS refuses a signature that is some minutes old; SigV4's documented tolerance is 15 minutes.
SIGNATURE_LIFE = timedelta(minutes=15)


class Crash(BaseException):
    """kill -9: nobody may catch it but the test."""


@dataclass(slots=True, eq=False)
class Call:
    """One line of `world.calls`."""

    number: int
    at: datetime
    name: str
    args: Mapping[str, object]
    outcome: str | None = None
    """`ok`, the code of an `Error`, or the name of another exception; None: not ended."""


@dataclass(slots=True, eq=False)
class Fault:
    """A scripted failure; use it as a context manager to end it with the block."""

    point: str
    when: Phase
    error: Failure
    first: int
    last: int | None
    where: Callable[[Mapping[str, object]], bool] | None
    delay: timedelta | None
    owner: list["Fault"] = field(repr=False)
    seen: int = 0
    hits: int = 0

    def remove(self) -> None:
        if self in self.owner:
            self.owner.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()

    def strikes(self, name: str, args: Mapping[str, object]) -> bool:
        """Counts the call if it is of this point."""
        if name != self.point and not fnmatchcase(name, self.point):
            return False
        if self.where is not None and not self.where(args):
            return False
        self.seen += 1
        if self.seen < self.first or (self.last is not None and self.seen > self.last):
            return False
        self.hits += 1
        return True

    def exception(self) -> BaseException:
        return self.error if isinstance(self.error, BaseException) else self.error()


class CallPoints:
    def __init__(self, clock: VirtualClock, *, keep_calls: bool) -> None:
        self.clock = clock
        self.calls: list[Call] = []
        self.counts: Counter[str] = Counter()
        self.latency = timedelta(0)
        """Virtual time that each call takes."""
        self._keep = keep_calls
        self._number = 0
        self._faults: list[Fault] = []
        self._hooks: list[Hook] = []

    def fault(
        self,
        point: str,
        *,
        error: Failure,
        when: Phase = "before",
        nth: int = 1,
        times: int | None = 1,
        where: Callable[[Mapping[str, object]], bool] | None = None,
        delay: timedelta | None = None,
    ) -> Fault:
        last = None if times is None else nth + times - 1
        fault = Fault(point, when, error, nth, last, where, delay, self._faults)
        self._faults.append(fault)
        return fault

    def on_call(self, hook: Hook) -> Callable[[], None]:
        """Returns what takes the hook away again."""
        self._hooks.append(hook)
        return lambda: self._hooks.remove(hook)

    def call(self, name: str, effect: Callable[[], T], args: Mapping[str, object], guard: Guard | None = None) -> T:
        self._number += 1
        self.counts[name] += 1
        call = Call(self._number, self.clock.now(), name, args)
        if self._keep:
            self.calls.append(call)
        try:
            result = self._run(name, effect, args, guard)
        except Error as error:
            call.outcome = error.code
            raise
        except BaseException as error:
            call.outcome = type(error).__name__
            raise
        call.outcome = "ok"
        return result

    def _run(self, name: str, effect: Callable[[], T], args: Mapping[str, object], guard: Guard | None) -> T:
        if not self._hooks and not self._faults:
            if self.latency:
                self.clock.sleep(self.latency)
            if guard is not None:
                guard()
            return effect()
        for hook in tuple(self._hooks):
            hook(name, "before", args)
        if self.latency:
            self.clock.sleep(self.latency)
        if guard is not None:
            guard()
        struck = [fault for fault in tuple(self._faults) if fault.strikes(name, args)]
        for fault in struck:
            if fault.delay is not None:
                self._land_late(name, effect, fault.delay)
            if fault.delay is not None or fault.when == "before":
                raise fault.exception()
        result = effect()
        for fault in struck:
            raise fault.exception()
        for hook in tuple(self._hooks):
            hook(name, "after", args)
        return result

    def _land_late(self, name: str, effect: Callable[[], object], delay: timedelta) -> None:
        if name.startswith("iam.") and delay > SIGNATURE_LIFE:
            return

        def land() -> None:
            try:
                effect()
            except Error:
                return  # refused when it arrived; the caller has long been gone

        self.clock.after(delay, land)


def lost(what: str) -> Callable[[], OutcomeUnknownError]:
    return lambda: OutcomeUnknownError(f"{what}: the answer was lost")
