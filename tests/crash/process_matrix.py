"""kill -9 of the real `rekeyd` process at every outside call of every life cycle, and what it leaves behind.

    python -m tests.crash.process_matrix                     # all of it, with the table and its totals
    python -m tests.crash.process_matrix --cycle rotate --pairs 20

Each cycle is recorded once, undisturbed. Then for each of its calls, before it was sent, after it acted and after it
was answered, every process of the program is killed there, the daemon is started again, and everything must come to
rest without help. A look that never got its answer leaves the same behind whether it arrived or not, so "after" is
left out for looks unless `--every` is given. Pairs: a second kill at a random call of the recovery.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rekeyd.demo.openbao import OpenBaoServer
from tests.crash.process_world import BY_NAME, CYCLES, WHENS, Call, CrashWorld, Moment, crash_world
from tests.secret_registry import remember

# Lives that share a world; the chain of its journal is checked at their end.
_BATCH = 12


@dataclass(frozen=True, slots=True)
class Case:
    cycle: str
    moments: tuple[Moment, ...]

    def __str__(self) -> str:
        return f"{self.cycle}: killed " + ", then ".join(str(moment) for moment in self.moments)


@dataclass(slots=True)
class Result:
    case: Case
    struck: int
    polls: int
    seconds: float
    wrongs: list[str]


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker process needs to make a world of its own."""

    number: int
    cases: tuple[Case, ...]
    bao_home: Path
    """Of the server that all workers share."""
    folder: Path


@dataclass(slots=True)
class Row:
    cycle: str
    calls: int = 0
    moments: int = 0
    pairs: int = 0
    struck: int = 0
    polls: int = 0
    seconds: float = 0.0
    wrongs: list[str] = field(default_factory=list)


_bao: OpenBaoServer | None = None


def _adopt_server(server: OpenBaoServer) -> None:
    """In each worker: the server of the parent, by its address and token."""
    global _bao  # noqa: PLW0603 - what a worker is given once
    _bao = server


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
    counts: Counter[Call] = Counter()
    for call in calls:
        counts[call] += 1
        for when in WHENS:
            if when != "after" or call.changes or every:
                yield Moment(call, counts[call], when)


def pairs(cycle: str, known: Sequence[Moment], calls: Sequence[Call], count: int, seed: int) -> Iterator[Case]:
    """A first kill at a change; from then on the recovery's calls are counted anew, of which one is the second."""
    draw = random.Random(f"{seed}/{cycle}")  # noqa: S311 - repeatable, not secret
    first = [moment for moment in known if moment.call.changes]
    for _ in range(count):
        second = Moment(draw.choice(calls), draw.randint(1, 2), draw.choice(WHENS))
        yield Case(cycle, (draw.choice(first), second))


def run_batch(task: Task) -> list[Result]:
    """In a worker: a world of its own, one life after the other, and the chain of the journal at the end."""
    assert _bao is not None
    results: list[Result] = []
    folder = task.folder / f"batch-{task.number}"
    with crash_world(_bao, folder, mount=f"batch-{task.number}") as world:
        world.start_daemon(ready=True)
        for case in task.cases:
            results.append(_run_case(world, case))
        # A daemon that was killed leaves the WAL to the next one: the check comes last, beside the living one.
        verified = world.stand.start("history", "--verify", "--json").wait()
        whole = verified.code == 0 and verified.document["verified"]["whole"]
        if not whole and results:
            results[-1].wrongs.append(f"the journal's chain is not whole (exit {verified.code}): {verified.out[-300:]}")
    return results


def _run_case(world: CrashWorld, case: Case) -> Result:
    if world.daemon is None or world.daemon.process.poll() is not None:
        world.start_daemon(ready=True)
    life = world.begin(BY_NAME[case.cycle])
    first, *others = case.moments
    rule = world.kill_at(first, life)
    life.cycle.begin(world, life)
    for moment in others:
        world.follow_up(rule, moment, life)
    world.bring_to_rest(life)
    result = Result(case, life.struck, life.polls, life.seconds, [*life.wrongs, *world.broken])
    world.broken.clear()
    world.end(life)
    return result


def run(cases: Sequence[Case], bao: OpenBaoServer, folder: Path, *, workers: int, batch: int = _BATCH) -> list[Result]:
    """Spread over worker processes: an emulated AWS is one a process."""
    batches = [tuple(cases[start : start + batch]) for start in range(0, len(cases), batch)]
    tasks = [Task(number, chunk, bao.home, folder) for number, chunk in enumerate(batches)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_adopt_server, initargs=(_without_process(bao),)) as pool:
        results: list[Result] = []
        for done in pool.imap_unordered(run_batch, tasks):
            results += done
            _progress(len(results), len(cases), results)
    return results


def _without_process(bao: OpenBaoServer) -> OpenBaoServer:
    """A copy that can be sent to another process: it knows the way in, and ends nothing."""
    copy = object.__new__(OpenBaoServer)
    copy.__dict__.update({**bao.__dict__, "_process": None})
    return copy


def _progress(done: int, of: int, results: Iterable[Result]) -> None:
    if sys.stderr.isatty() or done == of or done % 60 < _BATCH:
        wrong = sum(bool(result.wrongs) for result in results)
        sys.stderr.write(f"  {done}/{of} lives, {wrong} with violations\n")


def _tell(rows: Iterable[Row], began: float) -> int:
    rows = list(rows)
    print(f"\n{'life cycle':12} {'calls':>6} {'moments':>8} {'pairs':>6} {'kills':>6} {'polls':>8} {'violations':>11}")
    for row in rows:
        wrong = len(row.wrongs)
        print(f"{row.cycle:12} {row.calls:6} {row.moments:8} {row.pairs:6} {row.struck:6} {row.polls:8} {wrong:11}")
    total = Row("together")
    for row in rows:
        total.calls += row.calls
        total.moments += row.moments
        total.pairs += row.pairs
        total.struck += row.struck
        total.polls += row.polls
        total.wrongs += row.wrongs
    seconds = time.monotonic() - began
    print(
        f"{total.calls} calls, {total.moments} moments + {total.pairs} pairs, {total.struck} kill -9, "
        f"{total.polls} uses by consumers, {len(total.wrongs)} violations, {seconds:.0f} s"
    )
    for text in total.wrongs:
        print(f"  {text}")
    return 1 if total.wrongs else 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.process_matrix", description=__doc__)
    parser.add_argument("--cycle", action="append", choices=list(BY_NAME), help="only this one; may be repeated")
    parser.add_argument("--pairs", type=int, default=20, help="second kills a cycle (default 20)")
    parser.add_argument("--changes-only", action="store_true", help="only the moments of calls that change something")
    parser.add_argument("--every", action="store_true", help="the third moment of looks too")
    parser.add_argument("--sample", type=int, help="so many moments a cycle instead of all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--verbose", action="store_true", help="a line a life")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    rows: dict[str, Row] = {}
    cases: list[Case] = []
    with OpenBaoServer() as bao, tempfile.TemporaryDirectory(prefix="rekeyd-crash-") as folder:
        remember(bao.root_token)
        for name in options.cycle or [cycle.name for cycle in CYCLES]:
            calls = record(name, bao, Path(folder) / f"record-{name}")
            known = list(moments(calls, every=options.every))
            chosen = [m for m in known if m.call.changes] if options.changes_only else known
            if options.sample is not None:
                draw = random.Random(f"{options.seed}/sample/{name}")  # noqa: S311 - repeatable, not secret
                chosen = draw.sample(chosen, min(options.sample, len(chosen)))
            doubles = list(pairs(name, known, calls, options.pairs, options.seed))
            rows[name] = Row(name, calls=len(calls), moments=len(chosen), pairs=len(doubles))
            print(f"{name}: {len(calls)} calls, {len(chosen)} moments, {len(doubles)} pairs", flush=True)
            cases += [Case(name, (moment,)) for moment in chosen] + doubles
        for result in run(cases, bao, Path(folder), workers=options.workers):
            row = rows[result.case.cycle]
            row.struck += result.struck
            row.polls += result.polls
            row.seconds += result.seconds
            if options.verbose:
                print(f"{result.seconds:5.1f} s, {result.struck} kills, {result.case}", flush=True)
            row.wrongs += [f"{result.case}: {text}" for text in result.wrongs]
    return _tell(rows.values(), began)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
