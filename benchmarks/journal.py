"""How fast the journal is: commits, whole rotations, looks, guards and verification.

python benchmarks/journal.py [DIRECTORY …]      # default: the temporary directory and /dev/shm
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rekeyd.adapters.journal import SqlJournal, open_journal
from rekeyd.adapters.journal_account import SqlAccountJournal
from rekeyd.core.model import AccessKeyId, AccountId, Place, Principal, RotationKind, UserId
from rekeyd.core.reasons import Reason

ACCOUNT = AccountId("111122223333")
PLACE = Place(
    address="https://vault.example",
    namespace="",
    mount="secret",
    path="aws/x",
    id_field="id",
    secret_field="key",  # noqa: S106 - names of fields
)
SECONDS = 3.0


class RealClock:
    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - a benchmark is not a rule

    def monotonic(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, duration: timedelta) -> None:
        time.sleep(duration.total_seconds())


def user(number: int) -> Principal:
    return Principal(
        account_id=ACCOUNT,
        user_name=f"user-{number}",
        user_id=UserId(f"AIDA{number:08}"),
        path="/",
        arn=f"arn:aws:iam::{ACCOUNT}:user/user-{number}",
    )


def rotate(account: SqlAccountJournal, number: int) -> None:
    """Every transaction of one undisturbed rotation: ten."""
    principal, now = user(number), datetime.now(UTC)  # noqa: TID251
    old, new = AccessKeyId(f"AKIAOLD{number}"), AccessKeyId(f"AKIANEW{number}")
    rotation = account.open_rotation(
        principal, kind=RotationKind.NORMAL, reason=Reason.DUE, asked_by=None, old_key_id=old, target=None, at=now
    ).id
    account.create_intended(
        principal, rotation, operation_id=rotation, keys_before=frozenset({old}), cas=1, place=PLACE, at=now
    )
    account.created(principal, rotation, new, at=now)
    account.publish_intended(principal, rotation, cas=1, at=now)
    account.published(principal, rotation, key_id=new, place=PLACE, version=2, version_created_at=now, at=now)
    for verb in ("deactivate", "delete"):
        account.change_intended(principal, old, verb=verb, reason=Reason.OVERLAP_ENDED, at=now)
        account.change_done(principal, old, verb=verb, at=now)
    account.close_rotation(principal, rotation, reason=Reason.ROTATION_COMPLETE, completed=True, at=now)


def rate(step: Callable[[int], object], *, threads: int = 1) -> tuple[float, float]:
    """Calls a second, and the longest single call in milliseconds."""
    counts, worst = [0] * threads, [0.0] * threads
    end = time.perf_counter() + SECONDS

    def run(thread: int) -> None:
        while (began := time.perf_counter()) < end:
            step(thread * 10_000_000 + counts[thread])
            counts[thread] += 1
            worst[thread] = max(worst[thread], time.perf_counter() - began)

    running = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    return sum(counts) / SECONDS, max(worst) * 1000


def measure(journal: SqlJournal) -> None:
    account = journal.acquire(ACCOUNT, actor="benchmark")
    assert account is not None
    now = datetime.now(UTC)  # noqa: TID251

    def commit(_: int) -> None:
        journal.append("daemon.started", at=now, actor="benchmark")

    def show(name: str, figures: tuple[float, float]) -> None:
        print(f"  {name:<34}{figures[0]:>10.0f}/s   longest {figures[1]:>7.1f} ms")

    with journal.beating():
        for threads in (1, 4, 16):
            show(f"commits (append), {threads} threads", rate(commit, threads=threads))
        show("whole rotations (10 commits)", rate(lambda number: rotate(account, number)))
        show("known(), 1 thread", rate(lambda number: account.known(user(number % 100))))
        show("known(), 4 threads", rate(lambda number: account.known(user(number % 100)), threads=4))
        show("guard()", rate(lambda _: account.guard()))
        began = time.perf_counter()
        verdict = journal.verify()
        seconds = time.perf_counter() - began
    assert verdict.broken_at is None
    print(f"  verify(): {verdict.events} events in {seconds:.2f} s, {verdict.events / seconds:.0f}/s")


def main(places: list[str]) -> None:
    for place in places or [tempfile.gettempdir(), "/dev/shm"]:  # noqa: S108 - the point is to compare with memory
        with tempfile.TemporaryDirectory(dir=place) as directory:
            path = Path(directory) / "journal.db"
            began = time.perf_counter()
            with open_journal(f"sqlite:///{path}", instance="benchmark", clock=RealClock()) as journal:
                print(f"{place}: opened and migrated in {(time.perf_counter() - began) * 1000:.0f} ms")
                measure(journal)
                events = journal.head().seq
            print(f"  {path.stat().st_size / events:.0f} bytes an event, everything included")


if __name__ == "__main__":
    main(sys.argv[1:])
