"""Every kind of call of the real `rekeyd` process fails in every way: once, three times, and until it is mended.

    python -m tests.crash.process_faults                          # all of it, with the table and its totals
    python -m tests.crash.process_faults --op CreateAccessKey --verbose

"Until mended" is longer than a life takes; then the fault is lifted. At every moment of it the key that Vault serves
must work, no intent may send CreateAccessKey twice, and what is not ours stays as it is. When the call works again
the life must come to rest without help.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rekeyd.demo.emulator import (
    Drop,
    ErrorCode,
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
from tests.crash.process_runs import Row, end_of, progress, record, run, table
from tests.crash.process_world import REST_LIMIT_SECONDS, Call, CrashWorld, Life, When
from tests.secret_registry import remember

_CYCLE = "rotate"
# Longer than an undisturbed life.
_UNTIL_MENDED_SECONDS = 5.0
_TIMES: Mapping[str, int | None] = {"once": 1, "3 times": 3, "until mended": None}
# Nobody listens there: a client that follows gets nothing, and one that does not, neither.
_ELSEWHERE = "http://127.0.0.1:9"

_ANYWHERE: Mapping[str, tuple[When, Effect]] = {
    "connection lost before": ("before", Drop()),
    "answer lost": ("after", Drop()),
    "answer cut off": ("after", Truncate()),
    "answer cut off, no length": ("after", Truncate(announce_length=False)),
    "500 instead of the answer": ("after", Http(500, "html")),
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

    def __str__(self) -> str:
        return f"{self.call}: {self.fault}, {self.how}"

    def arm(self, world: CrashWorld, life: Life) -> None:
        world.fault(self.call, life, do=self.effect, when=self.when, times=_TIMES[self.how])

    def drive(self, world: CrashWorld, life: Life) -> None:
        # What was kept back arrives while the world is mended, and once more at the end, when nobody expects it.
        world.bring_to_rest(
            life,
            limit=REST_LIMIT_SECONDS + _UNTIL_MENDED_SECONDS,
            mend_after=_UNTIL_MENDED_SECONDS if _TIMES[self.how] is None else None,
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


def cases(calls: Iterable[Call]) -> Iterator[Failing]:
    """Of a recorded life."""
    for call in dict.fromkeys(calls):
        for fault, when, effect in ways(call):
            for how in _TIMES:
                yield Failing(call, fault, when, effect, how)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.process_faults", description=__doc__)
    parser.add_argument("--op", action="append", help="only calls whose name contains this; may be repeated")
    parser.add_argument("--how", action="append", choices=list(_TIMES), help="only so long; may be repeated")
    parser.add_argument("--sample", type=int, help="so many lives instead of all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="no life begins later; their order is drawn by the seed")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--verbose", action="store_true", help="a line a life")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with OpenBaoServer() as bao, tempfile.TemporaryDirectory(prefix="rekeyd-faults-") as folder:
        remember(bao.root_token)
        recorded = record(_CYCLE, bao, Path(folder) / "record")
        chosen = [case for case in cases(recorded) if not options.op or any(op in str(case.call) for op in options.op)]
        chosen = [case for case in chosen if not options.how or case.how in options.how]
        if options.sample is not None:
            draw = random.Random(options.seed)  # noqa: S311 - repeatable, not secret
            chosen = draw.sample(chosen, min(options.sample, len(chosen)))
        rows = {case.call: Row(str(case.call), calls=recorded.count(case.call)) for case in chosen}
        print(f"{len(rows)} kinds of calls, {len(chosen)} lives", flush=True)
        if options.minutes is not None:
            random.Random(options.seed).shuffle(chosen)  # noqa: S311 - repeatable, not secret
        for done, result in enumerate(
            run(chosen, bao, Path(folder), workers=options.workers, ends_at=end_of(options.minutes)), start=1
        ):
            rows[result.case.call].add(result)
            wrong = sum(len(row.wrongs) for row in rows.values())
            progress(done, len(chosen), wrong, result, verbose=options.verbose)
    return table("kind of call", list(rows.values()), began, faults="faults", planned=len(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
