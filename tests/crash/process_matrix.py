"""kill -9 of the real `rekeyd` process at every outside call of every life cycle, and what it leaves behind.

    python -m tests.crash.process_matrix                     # all of it, with the table and its totals
    python -m tests.crash.process_matrix --cycle rotate --pairs 20

Each cycle is recorded once, undisturbed. Then for each of its calls, before it was sent, after it acted and after it
was answered, every process of the program is killed there, the daemon is started again, and everything must come to
rest without help. Pairs: a second kill at a random call of the recovery.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rekeyd.demo.openbao import OpenBaoServer
from tests.crash.process_lives import BY_NAME, CYCLES
from tests.crash.process_runs import Killed, Row, end_of, moments, pairs, progress, record, run, table
from tests.secret_registry import remember, watched


def planned(cycle: str, bao: OpenBaoServer, folder: Path, options: argparse.Namespace) -> tuple[Row, list[Killed]]:
    """The recorded cycle and its cases."""
    calls = record(cycle, bao, folder / f"record-{cycle}")
    known = list(moments(calls, every=options.every))
    chosen = [moment for moment in known if moment.call.changes] if options.changes_only else known
    if options.sample is not None:
        draw = random.Random(f"{options.seed}/sample/{cycle}")  # noqa: S311 - repeatable, not secret
        chosen = draw.sample(chosen, min(options.sample, len(chosen)))
    doubles = list(pairs(cycle, known, calls, options.pairs, options.seed))
    print(f"{cycle}: {len(calls)} calls, {len(chosen)} moments, {len(doubles)} pairs", flush=True)
    cases = [*(Killed(cycle, (moment,)) for moment in chosen), *doubles]
    return Row(cycle, calls=len(calls), planned=len(cases)), cases


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.process_matrix", description=__doc__)
    parser.add_argument("--cycle", action="append", choices=list(BY_NAME), help="only this one; may be repeated")
    parser.add_argument("--pairs", type=int, default=20, help="second kills a cycle (default 20)")
    parser.add_argument("--changes-only", action="store_true", help="only the moments of calls that change something")
    parser.add_argument("--every", action="store_true", help="the third moment of looks too")
    parser.add_argument("--sample", type=int, help="so many moments a cycle instead of all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--minutes", type=float, help="no life begins later; changes come first, else the seed draws the order"
    )
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--verbose", action="store_true", help="a line a life")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    rows: dict[str, Row] = {}
    cases: list[Killed] = []
    with (
        tempfile.TemporaryDirectory(prefix="rekeyd-crash-") as folder,
        watched(Path(folder)) as leaks,
        OpenBaoServer() as bao,
    ):
        remember(bao.root_token)
        for cycle in options.cycle or [each.name for each in CYCLES]:
            rows[cycle], more = planned(cycle, bao, Path(folder), options)
            cases += more
        if options.minutes is not None:
            random.Random(options.seed).shuffle(cases)  # noqa: S311 - repeatable, not secret
            # Whoever dies at a look leaves nothing new behind: if time is short, it is short for those.
            cases.sort(key=lambda case: not case.moments[0].call.changes)
        for done, result in enumerate(
            run(cases, bao, Path(folder), workers=options.workers, ends_at=end_of(options.minutes)), start=1
        ):
            rows[result.case.cycle].add(result)
            wrong = sum(len(row.wrongs) for row in rows.values())
            progress(done, len(cases), wrong, result, verbose=options.verbose)
    return table("life cycle", list(rows.values()), began, leaks, faults="kills")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
