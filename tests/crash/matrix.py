"""kill -9 at every call of every life cycle, in memory.

A run is recorded once; then for each of its calls, before it and after it acted, the process dies there, the next one
starts on the same journal, and everything must come to rest without help. `python -m tests.crash.matrix` runs all of
it and prints the totals; pytest runs the moments after each change and a seeded sample of the others.

What it leaves out: the moment after a call that was refused, since nothing acted (a lost answer is in `answers`), and
second crashes beyond a seeded sample. Then come the mishaps of `mishaps`: at every moment of a rotation, and at
a seeded sample of those of the other lives. The matrix of real processes leaves out more: see `process_matrix`.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO

from rekeyd import logs
from tests.crash.cycles import BY_NAME, CYCLES, Cycle, drive, start, wrongs
from tests.journal_points import is_read
from tests.world import Crash, World
from tests.world.points import Phase


@dataclass(frozen=True, slots=True)
class Moment:
    """The nth call of a run (from 1), before it was sent or after it acted."""

    call: int
    phase: Phase
    name: str = ""

    def __str__(self) -> str:
        return f"{self.phase} call {self.call}, {self.name}"


@dataclass(slots=True)
class Killer:
    """Raises Crash at the given moments, each counted from the crash before it."""

    world: World
    moments: list[Moment]
    count: int = 0
    struck: int = 0

    def __post_init__(self) -> None:
        self.world.on_call(self.look)

    def look(self, name: str, phase: Phase, _args: Mapping[str, object]) -> None:
        if phase == "before":
            self.count += 1
        if self.struck >= len(self.moments):
            return
        moment = self.moments[self.struck]
        if moment.call == self.count and moment.phase == phase:
            self.struck += 1
            self.count = 0
            raise Crash(f"{phase} {name}")


@dataclass(slots=True)
class Ran:
    moments: tuple[Moment, ...]
    wrong: list[str]
    polls: int
    struck: int


@dataclass(slots=True)
class Totals:
    runs: int = 0
    crashes: int = 0
    polls: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, cycle: Cycle, ran: Ran) -> None:
        self.runs += 1
        self.crashes += ran.struck
        self.polls += ran.polls
        where = "; then ".join(str(moment) for moment in ran.moments)
        self.wrong += [f"{cycle.name}: {where}: {text}" for text in ran.wrong]


def record(cycle: Cycle) -> list[Moment]:
    """Every moment of an undisturbed run, in order."""
    rig, watch = start(cycle)
    trouble = drive(rig, watch)
    assert trouble is None, f"{cycle.name}: {trouble}"
    found = wrongs(rig, watch)
    assert not found, f"{cycle.name}: {found}"
    moments = []
    for number, call in enumerate(rig.world.calls, start=1):
        moments.append(Moment(number, "before", call.name))
        if call.outcome == "ok":
            moments.append(Moment(number, "after", call.name))
    return moments


def run(cycle: Cycle, *moments: Moment) -> Ran:
    """Die at these moments, one after the other, and come to rest."""
    rig, watch = start(cycle)
    killer = Killer(rig.world, list(moments))
    trouble = drive(rig, watch)
    wrong = wrongs(rig, watch)
    if trouble is not None:
        wrong.append(trouble)
    rig.close_journal()
    return Ran(moments, wrong, watch.polls, killer.struck)


def after_changes(moments: Iterable[Moment]) -> list[Moment]:
    """Between two of these moments lie only looks: whoever dies elsewhere leaves the same behind."""
    return [moment for moment in moments if moment.phase == "after" and not is_read(moment.name)]


def pairs(cycle: Cycle, moments: list[Moment], count: int, seed: int) -> list[tuple[Moment, Moment]]:
    """A first crash at a change, and a second at any of the next calls of the recovery."""
    draw = random.Random(f"{seed}/{cycle.name}")  # noqa: S311 - repeatable, not secret
    first = after_changes(moments)
    return [
        (draw.choice(first), Moment(draw.randint(1, 60), draw.choice(("before", "after")), "of the recovery"))
        for _ in range(count)
    ]


def strike_mishaps(cycle: Cycle, moments: list[Moment], count: int, seed: int) -> list[str]:
    """All moments of a rotation, a sample of every other life; prints a line each, returns what is wrong."""
    from tests.crash import mishaps  # it needs what is above

    wrong: list[str] = []
    for mishap in mishaps.Mishap:
        began, runs, at_rest = time.monotonic(), 0, 0
        for moment in mishaps.chosen(cycle, mishap, moments, count, seed):
            ended = mishaps.run(cycle, mishap, moment)
            runs += 1
            at_rest += ended.at_rest
            wrong += [f"{cycle.name}: {ended}: {text}" for text in ended.wrong]
        seconds = time.monotonic() - began
        print(f"{cycle.name:36} {mishap:14} {runs:6} {at_rest:8} {seconds:8.1f} {len(wrong):11}", flush=True)
    return wrong


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.matrix", description=__doc__)
    parser.add_argument("--cycle", action="append", choices=sorted(BY_NAME), help="only this one; may be repeated")
    parser.add_argument("--pairs", type=int, default=100, help="second crashes a cycle (default 100)")
    parser.add_argument("--mishaps", type=int, default=20, help="of each kind a cycle but rotate (default 20)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--changes-only", action="store_true", help="only the moments after a change")
    options = parser.parse_args(arguments)
    logs.configure(level="critical", style="console", stream=StringIO())
    totals, began = Totals(), time.monotonic()
    print(f"{'life cycle':36} {'calls':>6} {'moments':>8} {'pairs':>6} {'seconds':>8} {'violations':>11}")
    calls = 0
    for cycle in CYCLES if not options.cycle else [BY_NAME[name] for name in options.cycle]:
        cycle_began, wrong_before = time.monotonic(), len(totals.wrong)
        moments = record(cycle)
        chosen = after_changes(moments) if options.changes_only else moments
        for moment in chosen:
            totals.add(cycle, run(cycle, moment))
        doubles = pairs(cycle, moments, options.pairs, options.seed)
        for double in doubles:
            totals.add(cycle, run(cycle, *double))
        n = moments[-1].call
        calls += n
        wrong = len(totals.wrong) - wrong_before
        seconds = time.monotonic() - cycle_began
        print(f"{cycle.name:36} {n:6} {len(chosen):8} {len(doubles):6} {seconds:8.1f} {wrong:11}", flush=True)
    print(
        f"{calls} calls, {totals.runs} runs, {totals.crashes} crashes, {totals.polls} consumer polls, "
        f"{len(totals.wrong)} violations, {time.monotonic() - began:.0f} s"
    )
    print(f"{'life cycle':36} {'mishap':14} {'runs':>6} {'at rest':>8} {'seconds':>8} {'violations':>11}")
    for cycle in CYCLES if not options.cycle else [BY_NAME[name] for name in options.cycle]:
        totals.wrong += strike_mishaps(cycle, record(cycle), options.mishaps, options.seed)
    for text in totals.wrong[:40]:
        print(f"  {text}")
    return 1 if totals.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
