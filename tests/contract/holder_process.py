"""A process of its own that takes an account: `holder_process.py URL ACCOUNT`.

It says `held EPOCH`, `busy` or, with `beat` on its standard input, `beaten`; it ends when its input does.
"""

import sys
import time
from datetime import UTC, datetime, timedelta

from rekeyd.adapters.journal import open_journal
from rekeyd.core.model import AccountId


class RealClock:
    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - this process has no world around it

    def monotonic(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, duration: timedelta) -> None:
        time.sleep(duration.total_seconds())


def main(url: str, account_id: str) -> None:
    with open_journal(url, instance="test", clock=RealClock()) as journal:
        taken = journal.acquire(AccountId(account_id), actor="daemon")
        print("busy" if taken is None else f"held {taken.lease.epoch}", flush=True)
        for line in sys.stdin:
            if line.strip() == "beat":
                journal.beat()
                print("beaten", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
