"""Every call of every life cycle fails in every way it can, once, three times, and for a day.

"Before" is a failure of a call that did nothing, "after" one whose answer alone was lost. While it fails no promise may
break; when it works again the life must come to rest. `python -m tests.crash.answers` runs all and prints the totals.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rekeyd import logs
from rekeyd.errors import (
    AccessDeniedError,
    ConflictError,
    Error,
    JournalError,
    LeaseLostError,
    LimitExceededError,
    OutcomeUnknownError,
    RefusedError,
    TemporaryError,
)
from rekeyd.fleet.account import Worked
from rekeyd.ports import AccountJournal
from tests.crash.cycles import BY_NAME, CYCLES, Cycle, drive, rested, start, wrongs
from tests.journal_points import is_read
from tests.rig import ACCOUNT, DAY, Rig
from tests.world.points import Fault, Phase

SIGTERM = "SIGTERM"
FOR_EVER = DAY
_LEASED = frozenset(name for name in vars(AccountJournal) if not name.startswith("_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    cycle: Cycle
    point: str
    nth: int
    """Counted from the first recorded call of the cycle."""
    error: type[Error] | str
    phase: Phase
    times: int | None
    """None: for a day."""

    def __str__(self) -> str:
        how = "for a day" if self.times is None else f"{self.times}x"
        name = self.error if isinstance(self.error, str) else self.error.__name__
        return f"{self.cycle.name}: {name} {self.phase} {self.point} #{self.nth}, {how}"


def ways(point: str) -> Iterator[tuple[type[Error] | str, Phase]]:
    """How a call of this name can fail, by the rules of the ports."""
    if point.startswith("journal."):
        yield JournalError, "before"
        if not is_read(point):
            yield JournalError, "after"
        if point.removeprefix("journal.") in _LEASED:
            yield LeaseLostError, "before"
        return
    yield TemporaryError, "before"
    yield AccessDeniedError, "before"
    yield SIGTERM, "before"
    if is_read(point):
        return
    yield RefusedError, "before"
    yield OutcomeUnknownError, "before"
    yield OutcomeUnknownError, "after"
    if point == "iam.create_access_key":
        yield LimitExceededError, "before"
    if point in ("vault.publish", "vault.burn", "vault.write_mark"):
        yield ConflictError, "before"


def cases(cycle: Cycle) -> Iterator[Failing]:
    """Every change at each of its places; a look at its first and its last."""
    rig, watch = start(cycle)
    trouble = drive(rig, watch)
    assert trouble is None, f"{cycle.name}: {trouble}"
    for point, count in sorted(Counter(call.name for call in rig.world.calls).items()):
        places = sorted({1, count}) if is_read(point) else range(1, count + 1)
        for nth in places:
            for error, phase in ways(point):
                for times in (1,) if error == SIGTERM else (1, 3, None):
                    yield Failing(cycle=cycle, point=point, nth=nth, error=error, phase=phase, times=times)


def run(case: Failing) -> tuple[list[str], int]:
    """What is wrong, and how often the call failed."""
    rig, watch = start(case.cycle)
    fault = _strike(rig, case)
    trouble = drive(rig, watch, done=_settled)
    found = wrongs(rig, watch)
    if trouble is not None:
        found.append(trouble)
    rig.close_journal()
    return found, fault.hits


def _strike(rig: Rig, case: Failing) -> Fault:
    world = rig.world
    ending = False

    def failure() -> BaseException:
        nonlocal ending
        if case.times is None and not ending:
            ending = True
            world.clock.after(FOR_EVER, fault.remove)
        if isinstance(case.error, str):
            world.clock.stop()
            return TemporaryError("the process is stopping")
        return case.error(f"{case.point}: as the test wants it")

    fault = world.fault(case.point, error=failure, when=case.phase, nth=case.nth, times=case.times)
    return fault


def _settled(rig: Rig, worked: Worked | None) -> bool:
    """At rest, or a person was told no and nothing was begun."""
    if rested(rig, worked):
        return True
    if worked is None or worked.outcome is None or rig.journal.requests(ACCOUNT):
        return False
    facts = rig.journal.known(worked.principal).facts
    refused = any(r.answer == "refused" for r in rig.journal.requests(ACCOUNT, open_only=False))
    retiring = any(f.retirement is not None and not f.gone for f in facts.keys.values())
    return refused and facts.rotation is None and not facts.unresolved and not retiring


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.answers", description=__doc__)
    parser.add_argument("--cycle", action="append", choices=sorted(BY_NAME), help="only this one; may be repeated")
    parser.add_argument("--sample", type=int, help="so many cases a cycle instead of all")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    logs.configure(level="critical", style="console")
    began, runs, struck = time.monotonic(), 0, 0
    wrong: list[str] = []
    print(f"{'life cycle':36} {'cases':>6} {'failures':>9} {'seconds':>8} {'violations':>11}")
    for cycle in CYCLES if not options.cycle else [BY_NAME[name] for name in options.cycle]:
        cycle_began, before, hits = time.monotonic(), len(wrong), 0
        chosen = list(cases(cycle))
        if options.sample is not None:
            draw = random.Random(f"{options.seed}/{cycle.name}")  # noqa: S311 - repeatable, not secret
            chosen = draw.sample(chosen, min(options.sample, len(chosen)))
        for case in chosen:
            found, count = run(case)
            hits += count
            wrong += [f"{case}: {text}" for text in found]
        runs += len(chosen)
        struck += hits
        seconds = time.monotonic() - cycle_began
        print(f"{cycle.name:36} {len(chosen):6} {hits:9} {seconds:8.1f} {len(wrong) - before:11}", flush=True)
    print(f"{runs} runs, {struck} failed calls, {len(wrong)} violations, {time.monotonic() - began:.0f} s")
    for text in wrong[:60]:
        print(f"  {text}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
