"""When accounts are worked on: a real schedule and journal, and a fleet that does what the test says."""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast

import pytest

from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.journal import SqlJournal, open_journal
from rekeyd.adapters.metrics import Metrics
from rekeyd.app import App
from rekeyd.config import Config, parse
from rekeyd.core.model import AccountId, Asked, UserId
from rekeyd.core.reasons import Reason
from rekeyd.core.state import State
from rekeyd.daemon.accounts import AccountWork
from rekeyd.daemon.parts import Parts
from rekeyd.daemon.schedule import Schedule
from rekeyd.errors import BusyError, JournalError
from rekeyd.fleet.passes import PassResult
from rekeyd.fleet.posture import Part
from rekeyd.fleet.settings import FleetSettings
from rekeyd.ports import PrincipalStatus
from tests.conftest import LogLines
from tests.unit.test_daemon_metrics import CONDITION

LIMIT = 20.0
ONE, TWO = AccountId("111122223333"), AccountId("444455556666")
LONG = timedelta(hours=1)
CONFIG = """
[vault]
address = "https://vault.invalid"
[vault.auth]
token_file = "/nowhere"
[scan]
every = "1h"
"""

_Pass = Callable[[], PassResult | None]


@dataclass
class Fleet:
    """Remembers every pass; `does` says what the passes over an account come to, one after the other."""

    settings: FleetSettings = field(default_factory=FleetSettings)
    does: dict[tuple[str, AccountId], list[_Pass]] = field(default_factory=dict)
    passes: list[tuple[str, AccountId]] = field(default_factory=list)
    also: list[list[str]] = field(default_factory=list)
    """Whom each due pass was asked to look at besides."""
    anew: list[list[str]] = field(default_factory=list)
    """What each look at a root user was asked to ask for again."""
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def scan_pass(self, account_id: AccountId) -> PassResult:
        return self._pass("scan", account_id)

    def due_pass(self, account_id: AccountId, *, also: Collection[str] = ()) -> PassResult:
        self.also.append(sorted(also))
        return self._pass("due", account_id)

    @property
    def watch(self) -> "Fleet":
        return self

    def check_root(self, account_id: AccountId, *, anew: Collection[Part] = ()) -> float:
        self.anew.append(sorted(anew))
        self._pass("root", account_id)
        return 0.0

    def _pass(self, kind: str, account_id: AccountId) -> PassResult:
        with self._changed:
            planned = self.does.get((kind, account_id), [])
            act = planned.pop(0) if planned else None
        try:
            result = act() if act is not None else None
        finally:
            with self._changed:
                self.passes.append((kind, account_id))
                self._changed.notify_all()
        return result if result is not None else PassResult(account_id=account_id, ok=True)

    def wait_for(self, kind: str, account_id: AccountId, count: int = 1) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.passes.count((kind, account_id)) >= count, LIMIT)


@dataclass
class Vault:
    closings: int = 0

    def close(self) -> None:
        self.closings += 1


@dataclass
class _Assembled:
    """Of an App, what the daemon's account work needs."""

    config: Config
    clock: SystemClock
    vault: Vault
    journal: SqlJournal
    fleet: Fleet


class Bench:
    def __init__(self) -> None:
        self.clock = SystemClock()
        self.journal: SqlJournal = open_journal("sqlite://", instance="test", clock=self.clock)
        self.fleet = Fleet()
        self.app = self.app_with(self.fleet, Vault())
        self.parts = Parts(self.app)
        self.schedule = Schedule(self.clock, max_parallel=4)
        self.metrics = Metrics(self.journal, self.clock, lambda: CONDITION)
        self.ended = threading.Semaphore(0)
        self.work = AccountWork(self.parts, self.schedule, self.metrics, on_pass=self.ended.release)
        self.schedule.start()

    def app_with(self, fleet: Fleet, vault: Vault) -> App:
        return cast("App", _Assembled(parse(CONFIG, {}), self.clock, vault, self.journal, fleet))

    def user_goes_on_at(self, at: datetime, reason: Reason = Reason.IN_OVERLAP) -> None:
        self.journal.save_status(
            PrincipalStatus(
                account_id=ONE,
                user_name="ci",
                user_id=UserId("AIDACI"),
                policy="default",
                state=State.OVERLAP,
                reason=reason,
                message="",
                held_access_key_id=None,
                old_access_key_id=None,
                held_created_at=None,
                oldest_active_at=None,
                next_at=at,
                looked_at=self.clock.now(),
            )
        )

    def pass_ends(self) -> bool:
        return self.ended.acquire(timeout=LIMIT)


def _busy() -> PassResult:
    raise BusyError("a command works there")


def test_a_user_that_something_happened_to_is_looked_at_now(bench: Bench) -> None:
    bench.work.watch([ONE])
    assert bench.fleet.wait_for("scan", ONE)
    assert bench.pass_ends()
    bench.user_goes_on_at(bench.clock.now() + LONG)
    bench.work.look_at_users(ONE, ["ci"])
    assert bench.fleet.wait_for("due", ONE)
    assert bench.pass_ends()
    assert bench.fleet.also == [["ci"]]


def test_who_is_to_be_looked_at_is_not_forgotten_while_another_holder_has_the_account(bench: Bench) -> None:
    bench.fleet.does["due", ONE] = [_busy]
    bench.work.watch([ONE])
    assert bench.fleet.wait_for("scan", ONE)
    assert bench.pass_ends()
    bench.work.look_at_users(ONE, ["ci"])
    assert bench.pass_ends()
    bench.work.look_at_users(ONE, ["batch"])
    assert bench.fleet.wait_for("due", ONE, 2)
    assert bench.fleet.also == [["ci"], ["batch", "ci"]]


def test_a_look_at_a_root_user_that_is_wanted_while_others_take_long_is_not_lost(bench: Bench) -> None:
    slow = threading.Event()
    bench.fleet.does["root", ONE] = [lambda: _after(slow), lambda: _after(slow)]
    # As many as run at the same time: the schedule drops what comes besides.
    for number in (1, 2):
        bench.work.look_at_root(ONE)
        _until(lambda n=number: len(bench.fleet.anew) == n)  # type: ignore[misc]
    bench.work.look_at_root(ONE, anew={Part.TRAIL})
    bench.work.look_at_root(ONE)
    _until(lambda: bench.schedule.due_at(f"root-now:{ONE}") is None)
    slow.set()
    assert bench.fleet.wait_for("root", ONE, 3)
    _until(lambda: not [name for name in bench.schedule.running() if name.startswith("root-now")])
    assert bench.fleet.anew == [[], [], ["trail"]]


def test_an_account_that_is_not_watched_is_not_looked_at(bench: Bench) -> None:
    bench.work.watch([ONE])
    bench.work.look_at_users(TWO, ["ci"])
    assert bench.fleet.wait_for("scan", ONE)
    assert bench.pass_ends()
    assert bench.schedule.due_at(f"due:{TWO}") is None


def _after(done: threading.Event) -> None:
    assert done.wait(LIMIT)


def _until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not so():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.schedule.stop()
    made.schedule.wait_idle(timedelta(seconds=LIMIT))


def test_every_account_is_scanned_and_its_root_user_looked_at_at_once(bench: Bench) -> None:
    bench.work.watch([ONE, TWO])
    for account_id in (ONE, TWO):
        assert bench.fleet.wait_for("scan", account_id)
        assert bench.fleet.wait_for("root", account_id)
    assert bench.work.watched == (ONE, TWO)


def test_watching_again_scans_only_what_is_new(bench: Bench) -> None:
    bench.work.watch([ONE])
    assert bench.fleet.wait_for("scan", ONE)
    bench.work.watch([ONE, TWO])
    assert bench.fleet.wait_for("scan", TWO)
    assert bench.fleet.passes.count(("scan", ONE)) == 1


def test_an_account_that_is_gone_is_not_worked_on_any_more(bench: Bench) -> None:
    bench.work.watch([ONE, TWO])
    bench.work.watch([TWO])
    assert bench.work.watched == (TWO,)
    assert bench.schedule.due_at(f"scan:{ONE}") is None
    assert bench.schedule.due_at(f"root:{ONE}") is None


def test_a_due_pass_comes_when_the_first_user_can_go_on(bench: Bench) -> None:
    at = bench.clock.now() + timedelta(seconds=0.2)
    bench.fleet.does[("scan", ONE)] = [lambda: bench.user_goes_on_at(at)]
    bench.fleet.does[("due", ONE)] = [lambda: bench.user_goes_on_at(bench.clock.now() + LONG)]
    bench.work.watch([ONE])
    assert bench.fleet.wait_for("due", ONE)
    assert bench.clock.now() >= at


def test_what_another_process_left_is_found_by_the_poll(bench: Bench) -> None:
    bench.work.watch([ONE])
    assert bench.pass_ends()
    bench.fleet.does[("due", ONE)] = [lambda: bench.user_goes_on_at(bench.clock.now() + LONG)]
    bench.user_goes_on_at(bench.clock.now())
    bench.work.poll()
    assert bench.fleet.wait_for("due", ONE)


def test_a_user_that_stays_due_is_not_tried_again_and_again(bench: Bench) -> None:
    bench.work.watch([ONE])
    assert bench.pass_ends()
    past = bench.clock.now() - LONG
    bench.user_goes_on_at(past)
    bench.fleet.does[("due", ONE)] = [lambda: PassResult(account_id=ONE, ok=True, looked=1, next_at=past)]
    bench.work.poll()
    assert bench.fleet.wait_for("due", ONE)
    assert bench.pass_ends()
    bench.work.poll()
    again_at = bench.schedule.due_at(f"due:{ONE}")
    assert again_at is not None
    # The back-off's first step, as the settings say.
    assert again_at - bench.clock.now() > timedelta(seconds=50)


def test_a_request_gets_a_pass_and_while_it_stays_open_no_second_one_at_once(bench: Bench, log_lines: LogLines) -> None:
    bench.work.watch([ONE])
    assert bench.pass_ends()
    bench.journal.ask(ONE, "ci", Asked(by="user:me", at=bench.clock.now()))
    bench.work.poll()
    assert bench.fleet.wait_for("due", ONE)
    assert bench.pass_ends()
    bench.work.poll()
    assert bench.schedule.due_at(f"due:{ONE}") is None
    assert [line["asked_by"] for line in log_lines() if line["event"] == "request.received"] == ["user:me"]


def test_a_request_that_a_pass_answered_is_told(bench: Bench, log_lines: LogLines) -> None:
    bench.work.watch([ONE])
    assert bench.pass_ends()
    number = bench.journal.ask(ONE, "ci", Asked(by="user:me", at=bench.clock.now()))

    def answer() -> None:
        bench.journal.answer(number, "published", reason=None, at=bench.clock.now())

    bench.fleet.does[("due", ONE)] = [answer]
    bench.work.poll()
    assert bench.fleet.wait_for("due", ONE)
    assert bench.pass_ends()
    (served,) = [line for line in log_lines() if line["event"] == "request.served"]
    assert (served["answer"], served["principal"]) == ("published", "ci")


def test_an_account_that_another_holder_has_is_scanned_as_soon_as_it_is_free(bench: Bench, log_lines: LogLines) -> None:
    def busy() -> None:
        raise BusyError("vm:1:abc works on account 111122223333")

    bench.fleet.does[("scan", ONE)] = [busy]
    bench.work.watch([ONE])
    assert bench.fleet.wait_for("scan", ONE, 2)
    assert [line["event"] for line in log_lines() if line["event"] == "lease.refused"] == ["lease.refused"]


def test_a_pass_that_hangs_does_not_hold_up_another_account(bench: Bench) -> None:
    release = threading.Event()
    bench.fleet.does[("scan", ONE)] = [lambda: cast("None", release.wait(LIMIT) and None)]
    bench.work.watch([ONE])
    bench.work.watch([ONE, TWO])
    assert bench.fleet.wait_for("scan", TWO)
    assert ("scan", ONE) not in bench.fleet.passes
    release.set()
    assert bench.fleet.wait_for("scan", ONE)


def test_what_was_not_foreseen_ends_a_pass_and_nothing_else(bench: Bench, log_lines: LogLines) -> None:
    def unforeseen() -> None:
        raise ZeroDivisionError

    bench.fleet.does[("scan", ONE)] = [unforeseen]
    bench.work.watch([ONE, TWO])
    assert bench.fleet.wait_for("scan", TWO)
    assert bench.pass_ends()
    assert bench.pass_ends()
    (failed,) = [line for line in log_lines() if line["event"] == "pass.failed"]
    assert failed["account_id"] == ONE
    assert "ZeroDivisionError" in failed["exception"]
    assert bench.work.not_ready() == [f"account {ONE}: ZeroDivisionError was not foreseen; see the log"]


def test_an_account_without_a_pass_is_not_ready_and_one_with_a_failing_user_neither(bench: Bench) -> None:
    release = threading.Event()
    bench.fleet.does[("scan", ONE)] = [lambda: cast("None", release.wait(LIMIT) and None)]
    bench.work.watch([ONE])
    assert bench.work.not_ready() == [f"account {ONE}: no pass has ended yet"]
    release.set()
    assert bench.pass_ends()
    assert bench.work.not_ready() == []
    bench.user_goes_on_at(bench.clock.now() + LONG, Reason.STEP_FAILED)
    (problem,) = bench.work.not_ready()
    assert "ci" in problem


def test_a_journal_that_cannot_be_written_is_told_as_the_reason(bench: Bench) -> None:
    def broken() -> None:
        raise JournalError("the disk is full")

    bench.fleet.does[("scan", ONE)] = [broken]
    bench.work.watch([ONE])
    assert bench.pass_ends()
    assert bench.work.not_ready() == [f"account {ONE}: the disk is full"]


def _closed(vault: Vault) -> bool:
    return vault.closings > 0


def test_parts_that_are_in_use_are_closed_only_after_their_last_use(bench: Bench) -> None:
    before, after = cast("Vault", bench.app.vault), Vault()
    newer = bench.app_with(Fleet(), after)
    with bench.parts.in_use() as old:
        bench.parts.replace(newer)
        assert old is bench.app
        with bench.parts.in_use() as new:
            assert new is newer
        assert not _closed(before)
    assert _closed(before)
    assert not _closed(after)
    bench.parts.replace(bench.app_with(Fleet(), Vault()))
    assert _closed(after)
