"""`python -m tests.year`: several years, one a seed, each in a process of its own, and their figures."""

import argparse
import gc
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from io import StringIO
from multiprocessing import get_context

from rekeyd import logs
from tests.year.simulation import Figures, Year


def run(seed: int, *, users: int, days: int) -> tuple[Figures, float, float]:
    """The year's figures, how many seconds it took, and how many of them this process had a processor."""
    logs.configure(level="critical", stream=StringIO())
    # A year makes few cycles and keeps many objects: the usual thresholds spend a tenth of it on looking for garbage.
    gc.set_threshold(50_000, 20, 20)
    began, busy = time.monotonic(), time.process_time()
    figures = Year(seed=seed, users=users, days=days).run()
    return figures, time.monotonic() - began, time.process_time() - busy


def report(figures: Figures, seconds: float, busy: float) -> str:
    counted = ", ".join(f"{n} {what}" for what, n in sorted(figures.counts.items()))
    return (
        f"seed {figures.seed}: {figures.users} users, {figures.days} days, {figures.steps} looks with {figures.calls} "
        f"calls in {figures.passes} passes, {figures.faults} faults injected, {figures.counts['rotations']} rotations, "
        f"{len(figures.violations)} violations, {seconds:.0f} s ({busy:.0f} s of processor)\n"
        f"  oldest active key of {figures.undisturbed} users whom people left alone: {figures.oldest_of}\n"
        f"  and where rekeyd was held up: {figures.latest_of}\n"
        f"  credential reports up to {figures.oldest_report} old\n  {counted}"
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.year", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--days", type=int, default=365)
    options = parser.parse_args(arguments)
    broken = 0
    workers = min(len(options.seeds), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        for figures, seconds, busy in pool.map(partial(run, users=options.users, days=options.days), options.seeds):
            print(report(figures, seconds, busy), flush=True)
            for text in figures.violations[:20]:
                print(f"    {text}")
            broken += len(figures.violations)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
