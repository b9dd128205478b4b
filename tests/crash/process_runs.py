"""Many lives in the world of `process_world`, spread over worker processes, and the table of what came of them."""

import math
import multiprocessing
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from rekeyd.demo.openbao import OpenBaoServer
from tests.crash.process_lives import BY_NAME, WHENS, Call, Life, Moment
from tests.crash.process_world import CrashWorld, crash_world
from tests.secret_registry import Leak

# Lives that share a world; the chain of its journal is checked at their end.
_BATCH = 12


class Case(Protocol):
    """One disturbed life; sent to a worker process, so it holds plain values only."""

    @property
    def cycle(self) -> str: ...

    def arm(self, world: CrashWorld, life: Life) -> None:
        """Before the cycle begins."""

    def drive(self, world: CrashWorld, life: Life) -> None:
        """After it has begun, until it has come to rest."""


C = TypeVar("C", bound=Case)


@dataclass(frozen=True, slots=True)
class Killed:
    """Every process of the program dies at these moments; each is counted from the one before."""

    cycle: str
    moments: tuple[Moment, ...]

    def __str__(self) -> str:
        return f"{self.cycle}: killed " + ", then ".join(str(moment) for moment in self.moments)

    def arm(self, world: CrashWorld, life: Life) -> None:
        first, *others = self.moments
        rule = world.kill_at(first, life)
        for moment in others:
            rule = world.kill_at(moment, life, after=rule)

    def drive(self, world: CrashWorld, life: Life) -> None:
        world.bring_to_rest(life)


@dataclass(slots=True)
class Result(Generic[C]):
    case: C
    struck: int
    """How often the case's faults fired."""
    polls: int
    seconds: float
    wrongs: list[str]


@dataclass(frozen=True, slots=True)
class Task(Generic[C]):
    """What a worker process needs to make a world of its own."""

    name: str
    cases: tuple[C, ...]
    folder: Path
    ends_at: float
    """By the monotonic clock, which all processes of a machine share: no life begins after it."""


@dataclass(slots=True)
class Row:
    """A line of the table."""

    name: str
    calls: int = 0
    planned: int = 0
    lives: int = 0
    struck: int = 0
    missed: int = 0
    """Lives that came to rest without the call that was waited for."""
    polls: int = 0
    wrongs: list[str] = field(default_factory=list)

    def add(self, result: Result[C]) -> None:
        self.lives += 1
        self.struck += result.struck
        self.missed += result.struck == 0
        self.polls += result.polls
        self.wrongs += [f"{result.case}: {text}" for text in result.wrongs]


_bao: OpenBaoServer | None = None


def record(cycle_name: str, bao: OpenBaoServer, folder: Path) -> list[Call]:
    """The calls of an undisturbed life, in order."""
    with crash_world(bao, folder, mount=f"record-{cycle_name}") as world:
        world.start_daemon(ready=True)
        life = world.begin(BY_NAME[cycle_name])
        life.cycle.begin(world, life)
        world.bring_to_rest(life)
        assert not [*life.wrongs, *world.broken], f"{cycle_name}: {life.wrongs} {world.broken}"
        calls = world.calls(life)
        world.end(life)
        return calls


def moments(calls: Iterable[Call], *, every: bool = False) -> Iterator[Moment]:
    """Of all calls: before, after and answered. A look that never got its answer leaves the same behind whether it
    arrived or not, so "after" is left out for looks unless `every`."""
    counts: Counter[Call] = Counter()
    for call in calls:
        counts[call] += 1
        for when in WHENS:
            if when != "after" or call.changes or every:
                yield Moment(call, counts[call], when)


def pairs(cycle: str, known: Sequence[Moment], calls: Sequence[Call], count: int, seed: int) -> Iterator[Killed]:
    """A first kill at a change; from then on the recovery's calls are counted anew, of which one is the second."""
    draw = random.Random(f"{seed}/{cycle}")  # noqa: S311 - repeatable, not secret
    first = [moment for moment in known if moment.call.changes]
    for _ in range(count):
        second = Moment(draw.choice(calls), draw.randint(1, 2), draw.choice(WHENS))
        yield Killed(cycle, (draw.choice(first), second))


def run(
    cases: Sequence[C],
    bao: OpenBaoServer,
    folder: Path,
    *,
    workers: int,
    batch: int = _BATCH,
    ends_at: float = math.inf,
) -> Iterator[Result[C]]:
    """Spread over worker processes, since an emulated AWS is one a process; results as they come."""
    batches = [tuple(cases[start : start + batch]) for start in range(0, len(cases), batch)]
    # Several runs may share a server.
    series = secrets.token_hex(4)
    tasks = [Task(f"{series}-{number}", chunk, folder, ends_at) for number, chunk in enumerate(batches)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_adopt_server, initargs=(_without_process(bao),)) as pool:
        for done in pool.imap_unordered(_run_batch, tasks):
            yield from done


def _run_batch(task: Task[C]) -> list[Result[C]]:
    """In a worker: a world of its own, one life after the other, and the chain of the journal at the end."""
    assert _bao is not None
    if time.monotonic() > task.ends_at:
        return []
    folder = task.folder / f"batch-{task.name}"
    with crash_world(_bao, folder, mount=f"batch-{task.name}") as world:
        results = [_run_case(world, case) for case in task.cases if time.monotonic() < task.ends_at]
        # Beside the living daemon: the last one that was killed left its part of the journal in the WAL.
        verified = world.stand.start("history", "--verify", "--json").wait()
        whole = verified.code == 0 and verified.document["verified"]["whole"]
        if not whole and results:
            results[-1].wrongs.append(f"the journal's chain is not whole (exit {verified.code}): {verified.out[-300:]}")
    return results


def _run_case(world: CrashWorld, case: C) -> Result[C]:
    if world.daemon is None or world.daemon.process.poll() is not None:
        world.start_daemon(ready=True)
    try:
        life = world.begin(BY_NAME[case.cycle])
    except AssertionError as error:
        # One life that could not begin is a line of the table, and not the end of all others.
        if world.daemon is not None:
            world.daemon.stop(signal.SIGKILL)
        return Result(case, 0, 0, 0.0, [f"it could not begin: {error}"])
    case.arm(world, life)
    life.cycle.begin(world, life)
    case.drive(world, life)
    result = Result(case, life.struck, life.polls, life.seconds, [*life.wrongs, *world.broken])
    world.broken.clear()
    world.end(life)
    if life.wrongs and world.daemon is not None:
        # The next life shall not suffer from what went wrong in this one's process.
        world.daemon.stop(signal.SIGKILL)
    return result


def _adopt_server(server: OpenBaoServer) -> None:
    """In each worker: the server of the parent, by its address and token."""
    global _bao  # noqa: PLW0603 - what a worker is given once
    _bao = server
    # Ctrl-C is the parent's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _without_process(bao: OpenBaoServer) -> OpenBaoServer:
    """A copy that can be sent to another process: it knows the way in, and ends nothing."""
    copy = object.__new__(OpenBaoServer)
    copy.__dict__.update({**bao.__dict__, "_process": None})
    return copy


def end_of(minutes: float | None) -> float:
    """When no further life may begin; for `run`."""
    return math.inf if minutes is None else time.monotonic() + minutes * 60


def progress(done: int, of: int, wrong: int, result: Result[C], *, verbose: bool) -> None:
    """To stderr, now and then."""
    if verbose:
        sys.stderr.write(f"{result.seconds:5.1f} s, {result.struck} faults, {result.case}\n")
    if done % 50 == 0 or done == of:
        sys.stderr.write(f"  {done}/{of} lives, {wrong} violations\n")
    sys.stderr.flush()


def table(first: str, rows: Sequence[Row], began: float, leaks: Sequence[Leak], *, faults: str) -> int:
    """Prints it with its totals, what was planned and not played, and every violation; the exit code."""
    print(f"\n{first:46} {'planned':>8} {'lives':>6} {faults:>8} {'missed':>7} {'polls':>8} {'violations':>11}")
    total = Row("together")
    for row in rows:
        wrong = len(row.wrongs)
        print(f"{row.name:46} {row.planned:8} {row.lives:6} {row.struck:8} {row.missed:7} {row.polls:8} {wrong:11}")
        total.calls += row.calls
        total.planned += row.planned
        total.lives += row.lives
        total.struck += row.struck
        total.missed += row.missed
        total.polls += row.polls
        total.wrongs += row.wrongs
    print(
        f"{f'{total.calls} calls, ' if total.calls else ''}{total.lives} of {total.planned} lives, "
        f"{total.struck} {faults} ({total.missed} lives without one), "
        f"{total.polls} uses by consumers, {len(total.wrongs)} violations, {time.monotonic() - began:.0f} s"
    )
    left = total.planned - total.lives
    if left:
        print(f"CUT SHORT BY --minutes: {left} of the {total.planned} planned lives were not played")
        for row in rows:
            if row.lives < row.planned:
                print(f"  {row.planned - row.lives:4} of {row.planned:4} {row.name}")
    for text in [*total.wrongs, *(f"P7: {leak}" for leak in leaks)]:
        print(f"  {text}")
    return 1 if total.wrongs or leaks else 0
