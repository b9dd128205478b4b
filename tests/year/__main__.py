"""`python -m tests.year`: several years, one a seed, and their figures."""

import argparse
import sys
import time

from rekeyd import logs
from tests.year.simulation import Figures, Year


def report(figures: Figures, seconds: float) -> str:
    counted = ", ".join(f"{n} {what}" for what, n in sorted(figures.counts.items()))
    return (
        f"seed {figures.seed}: {figures.users} users, {figures.days} days, {figures.steps} looks in {figures.passes} "
        f"passes, {seconds:.0f} s\n  {counted}\n  oldest active key of {figures.undisturbed} undisturbed users: "
        f"{figures.oldest} ({figures.oldest_of}; {figures.oldest_share:.1%})\n  {len(figures.violations)} violations"
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.year", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--days", type=int, default=365)
    options = parser.parse_args(arguments)
    logs.configure(level="critical", style="console")
    broken = 0
    for seed in options.seeds:
        began = time.monotonic()
        figures = Year(seed=seed, users=options.users, days=options.days).run()
        print(report(figures, time.monotonic() - began), flush=True)
        for text in figures.violations[:20]:
            print(f"    {text}")
        too_old = figures.oldest_share > 1
        if too_old:
            print("    P10: an undisturbed user's key outlived max_age")
        broken += len(figures.violations) + too_old
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
