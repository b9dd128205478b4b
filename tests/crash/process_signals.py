"""SIGTERM and SIGHUP to the real daemon at every kind of outside call of every life cycle.

    python -m tests.crash.process_signals                   # all of it, with the table and its totals
    python -m tests.crash.process_signals --cycle rotate --verbose

The signal comes when the other side has acted and before the daemon knows. After SIGTERM, also with the answer lost,
the daemon must end with 0 and the next one must bring the life to rest. Before SIGHUP the configuration is changed
under it: another overlap, place or names of the fields, while consumers read the old ones; some seconds later it is
changed back.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rekeyd.demo.emulator import Call as Calling
from rekeyd.demo.emulator import Drop, SeenRequest
from rekeyd.demo.openbao import OpenBaoServer
from tests.acceptance.stand import eventually
from tests.crash.process_lives import BY_NAME, CYCLES, Call, Life
from tests.crash.process_runs import Row, end_of, progress, record, run, table
from tests.crash.process_world import REST_LIMIT_SECONDS, CrashWorld
from tests.secret_registry import remember, watched

# A few passes under the other configuration.
_CHANGED_SECONDS = 3.0
# What is changed in the file, from and to.
_EDITS: Mapping[str, tuple[str, str]] = {
    "overlap": ('overlap = "0.5s"', 'overlap = "2s"'),
    "path": ("[vault]\n", '[vault]\npath = "elsewhere/{account_id}/{user_name}"\n'),
    "fields": ("[vault.auth]\n", '[vault.fields]\npreset = "vault-aws"\n\n[vault.auth]\n'),
}
SIGTERM, LOST = "SIGTERM", "SIGTERM, answer lost"
WAYS = (SIGTERM, LOST, *(f"SIGHUP, {what}" for what in _EDITS))
# Without a pair in Vault nothing says where it was meant to be: the other place is where it will rightly go.
_WITHOUT_PLACE = ("adopt", "create")


@dataclass(frozen=True, slots=True)
class Signalled:
    call: Call
    way: str
    cycle: str = "rotate"

    def __str__(self) -> str:
        return f"{self.cycle}, {self.call}: {self.way}"

    @property
    def _edit(self) -> tuple[str, str] | None:
        return _EDITS.get(self.way.removeprefix("SIGHUP, "))

    def arm(self, world: CrashWorld, life: Life) -> None:
        usual = world.stand.config.read_text()

        def send(_seen: SeenRequest) -> None:
            assert world.daemon is not None
            if self._edit is not None:
                assert self._edit[0] in usual
                world.stand.config.write_text(usual.replace(*self._edit))
            world.daemon.process.send_signal(signal.SIGTERM if self._edit is None else signal.SIGHUP)

        life.may_end = self._edit is None
        life.reloads = _reloads(world)
        world.fault(self.call, life, do=Calling(send), when="after")
        if self.way == LOST:
            world.fault(self.call, life, do=Drop(), when="after")

    def drive(self, world: CrashWorld, life: Life) -> None:
        signalled = world.daemon
        if self._edit is not None:
            self._change_back(world, life)
        world.bring_to_rest(life)
        if self._edit is None and signalled is not None and life.rules[0].hit.is_set():
            # It finishes its step first, and may do so after the life is at rest: the next life needs another one.
            eventually(lambda: signalled.process.poll() is not None, "the end of the daemon", limit=REST_LIMIT_SECONDS)

    def _change_back(self, world: CrashWorld, life: Life) -> None:
        daemon, sent = world.daemon, life.rules[0].hit
        assert daemon is not None
        assert self._edit is not None
        eventually(lambda: sent.is_set() or world.at_rest(life), "the call", limit=REST_LIMIT_SECONDS, alive=daemon)
        if not sent.is_set():
            return
        daemon.wait_for_event("config.reloaded", count=life.reloads + 1)
        ends = time.monotonic() + _CHANGED_SECONDS
        eventually(lambda: time.monotonic() > ends, "time", alive=daemon)
        usual, changed = self._edit
        world.stand.config.write_text(world.stand.config.read_text().replace(changed, usual))
        daemon.process.send_signal(signal.SIGHUP)


def _reloads(world: CrashWorld) -> int:
    events = [] if world.daemon is None else world.daemon.events
    return sum(line["event"] == "config.reloaded" for line in events)


def cases(calls: Iterable[Call], cycle: str) -> Iterator[Signalled]:
    """Of a recorded life."""
    for call in dict.fromkeys(calls):
        for way in WAYS:
            if way in (SIGTERM, LOST) or cycle not in _WITHOUT_PLACE:
                yield Signalled(call, way, cycle)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.process_signals", description=__doc__)
    parser.add_argument("--cycle", action="append", choices=list(BY_NAME), help="only this one; may be repeated")
    parser.add_argument("--sample", type=int, help="so many lives a cycle instead of all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="no life begins later; changes come first")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--verbose", action="store_true", help="a line a life")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    draw = random.Random(options.seed)  # noqa: S311 - repeatable, not secret
    chosen: list[Signalled] = []
    rows: dict[str, Row] = {}
    with (
        tempfile.TemporaryDirectory(prefix="rekeyd-signals-") as folder,
        watched(Path(folder)) as leaks,
        OpenBaoServer() as bao,
    ):
        remember(bao.root_token)
        for cycle in options.cycle or [each.name for each in CYCLES]:
            calls = record(cycle, bao, Path(folder) / f"record-{cycle}")
            known = list(cases(calls, cycle))
            draw.shuffle(known)
            known = known[: options.sample]
            rows[cycle] = Row(cycle, calls=len(set(calls)), planned=len(known))
            chosen += known
        print(f"{len(chosen)} lives", flush=True)
        if options.minutes is not None:
            draw.shuffle(chosen)
            chosen.sort(key=lambda case: not case.call.changes)
        for done, result in enumerate(
            run(chosen, bao, Path(folder), workers=options.workers, ends_at=end_of(options.minutes)), start=1
        ):
            rows[result.case.cycle].add(result)
            wrong = sum(len(row.wrongs) for row in rows.values())
            progress(done, len(chosen), wrong, result, verbose=options.verbose)
    return table("life cycle", list(rows.values()), began, leaks, faults="signals")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
