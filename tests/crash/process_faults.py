"""Every kind of call of the real `rekeyd` process fails in every way: once, three times, and until it is mended.

    python -m tests.crash.process_faults                          # all of it, with the table and its totals
    python -m tests.crash.process_faults --op CreateAccessKey --verbose

"Until mended" is longer than a life takes, "past the time-outs" longer than `verify_timeout` and `publish_timeout` are;
then the fault is lifted. It begins with the first call of its kind that the life makes, or with the last. All of this
happens to a rotation; of the other life cycles it is a sample. At every moment of it the key that Vault serves
must work, no intent may send CreateAccessKey twice, and what is not ours stays as it is. When the call works again
the life must come to rest without help.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rekeyd.demo.emulator import (
    Delay,
    Drop,
    ErrorCode,
    Hold,
    HoldBack,
    Http,
    LateDuplicate,
    Redirect,
    Sealed,
    StaleRead,
    Throttle,
    Truncate,
    VaultError,
)
from rekeyd.demo.emulator.faults import Effect
from rekeyd.demo.openbao import OpenBaoServer
from tests.crash.process_lives import BY_NAME, CYCLES, Call, Life, When
from tests.crash.process_runs import Row, end_of, progress, record, run, table
from tests.crash.process_world import REST_LIMIT_SECONDS, CrashWorld
from tests.secret_registry import remember, watched

_CYCLE = "rotate"
# None: until it is lifted, so many seconds later. The first is longer than an undisturbed life.
_TIMES: Mapping[str, int | None] = {"once": 1, "3 times": 3, "until mended": None, "past the time-outs": None}
_MENDED_AFTER_SECONDS = {"until mended": 5.0, "past the time-outs": 22.0}
_CHEAP = ("once", "until mended")
# Longer than any client of ours waits for an answer, and how much longer a life may take that has such waits.
_TOO_LATE_SECONDS = 12.0
_WAITS_SECONDS = 60.0
# Nobody listens there: a client that follows gets nothing, and one that does not, neither.
_ELSEWHERE = "http://127.0.0.1:9"

_ANYWHERE: Mapping[str, tuple[When, Effect]] = {
    "connection lost before": ("before", Drop()),
    "answer lost": ("after", Drop()),
    "answer cut off": ("after", Truncate()),
    "answer cut off, no length": ("after", Truncate(announce_length=False)),
    "500 instead of the answer": ("after", Http(500, "html")),
    "answer held": ("after", Hold()),
    "arrives when it is let go": ("before", Hold()),
    "answer too late": ("after", Delay(_TOO_LATE_SECONDS)),
    "200 HTML": ("before", Http(200, "html")),
    "503 HTML": ("before", Http(503, "html")),
    "throttled": ("before", Throttle()),
}
_OF_AWS: Mapping[str, tuple[When, Effect]] = {
    "500 XML": ("before", Http(500, "xml")),
    "AccessDenied": ("before", ErrorCode("AccessDenied")),
    "ExpiredToken": ("before", ErrorCode("ExpiredToken")),
}
_OF_VAULT: Mapping[str, tuple[When, Effect]] = {
    "500 JSON": ("before", Http(500, "json")),
    "403": ("before", VaultError(403, ("permission denied",))),
    "412": ("before", VaultError(412)),
    "429": ("before", VaultError(429)),
    "472": ("before", VaultError(472)),
    "473": ("before", VaultError(473)),
    "sealed": ("before", Sealed()),
    "redirected": ("before", Redirect(_ELSEWHERE)),
}
_OF_WRITES: Mapping[str, tuple[When, Effect]] = {
    "arrives after all": ("before", HoldBack()),
    "arrives after its retry": ("before", LateDuplicate()),
}


@dataclass(frozen=True, slots=True)
class Failing:
    call: Call
    fault: str
    when: When
    effect: Effect
    how: str
    cycle: str = _CYCLE
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.cycle}, {self.call} #{self.nth}: {self.fault}, {self.how}"

    def arm(self, world: CrashWorld, life: Life) -> None:
        world.fault(self.call, life, do=self.effect, when=self.when, nth=self.nth, times=_TIMES[self.how])

    def drive(self, world: CrashWorld, life: Life) -> None:
        # What was kept back arrives while the world is mended, and once more at the end, when nobody expects it.
        mended_after = _MENDED_AFTER_SECONDS.get(self.how)
        waits = _WAITS_SECONDS if isinstance(self.effect, Hold | Delay) else 0.0
        world.bring_to_rest(
            life,
            limit=REST_LIMIT_SECONDS + (mended_after or 0.0) + waits,
            mend_after=mended_after,
            deliver=isinstance(self.effect, HoldBack),
        )


def ways(call: Call) -> Iterator[tuple[str, When, Effect]]:
    """In which this kind of call can fail."""
    kinds = dict(_ANYWHERE)
    kinds |= _OF_VAULT if call.service == "vault" else _OF_AWS
    if call.changes:
        kinds |= _OF_WRITES
    if call.service == "vault" and call.op.startswith("GET {mount}/data"):
        kinds["stale"] = ("before", StaleRead())
    if call.op == "CreateAccessKey":
        kinds["LimitExceeded"] = ("before", ErrorCode("LimitExceeded"))
    for name, (when, effect) in kinds.items():
        yield name, when, effect


def cases(calls: Iterable[Call], cycle: str = _CYCLE) -> Iterator[Failing]:
    """Of a recorded life."""
    for call, count in Counter(calls).items():
        for fault, when, effect in ways(call):
            for how in _TIMES:
                if how != "past the time-outs" or _has_time_out(call):
                    yield Failing(call, fault, when, effect, how, cycle)
            # When it is the last of its kind, what follows is another step: three times is once.
            for how in _CHEAP if count > 1 else ():
                yield Failing(call, fault, when, effect, how, cycle, nth=count)


def _has_time_out(call: Call) -> bool:
    """Whether a step that gives up by itself waits for this call: a change, or a proof of the user's own pair."""
    return call.changes or (call.service == "sts" and call.about == "user")


def _sampled(cases: Sequence[Failing], count: int, seed: object) -> list[Failing]:
    draw = random.Random(str(seed))  # noqa: S311 - repeatable, not secret
    return draw.sample(cases, min(count, len(cases)))


def _chosen(bao: OpenBaoServer, folder: Path, options: argparse.Namespace) -> list[Failing]:
    """Each cycle is recorded, and its cases are filtered and sampled as asked."""
    chosen = []
    for cycle in options.cycle or [each.name for each in CYCLES]:
        known = list(cases(record(cycle, bao, folder / f"record-{cycle}"), cycle))
        known = [case for case in known if not options.op or any(op in str(case.call) for op in options.op)]
        known = [case for case in known if not options.how or case.how in options.how]
        count = options.sample if cycle == _CYCLE else options.others
        chosen += known if count is None else _sampled(known, count, f"{options.seed}/{cycle}")
    return chosen


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.process_faults", description=__doc__)
    parser.add_argument("--op", action="append", help="only calls whose name contains this; may be repeated")
    parser.add_argument("--how", action="append", choices=list(_TIMES), help="only so long; may be repeated")
    parser.add_argument("--cycle", action="append", choices=list(BY_NAME), help="only this one; may be repeated")
    parser.add_argument("--sample", type=int, help="so many lives of a rotation instead of all")
    parser.add_argument("--others", type=int, default=60, help="so many lives of each other cycle (default 60)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="no life begins later; their order is drawn by the seed")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--verbose", action="store_true", help="a line a life")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="rekeyd-faults-") as folder,
        watched(Path(folder)) as leaks,
        OpenBaoServer() as bao,
    ):
        remember(bao.root_token)
        chosen = _chosen(bao, Path(folder), options)
        rows = {case.call: Row(str(case.call)) for case in chosen}
        for case in chosen:
            rows[case.call].planned += 1
        print(f"{len(rows)} kinds of calls, {len(chosen)} lives", flush=True)
        if options.minutes is not None:
            random.Random(options.seed).shuffle(chosen)  # noqa: S311 - repeatable, not secret
        for done, result in enumerate(
            run(chosen, bao, Path(folder), workers=options.workers, ends_at=end_of(options.minutes)), start=1
        ):
            rows[result.case.call].add(result)
            wrong = sum(len(row.wrongs) for row in rows.values())
            progress(done, len(chosen), wrong, result, verbose=options.verbose)
    return table("kind of call", list(rows.values()), began, leaks, faults="faults")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
