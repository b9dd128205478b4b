"""One holder an account: between threads, between processes, after kill -9, after a freeze."""

import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.adapters.journal import SqlJournal, open_journal
from rekeyd.adapters.journal_account import SqlAccountJournal
from rekeyd.adapters.journal_owners import FileOwners
from rekeyd.core.model import RetireWhy, RotationId, RotationKind
from rekeyd.core.reasons import Reason
from rekeyd.errors import LeaseLostError
from tests.acceptance.stand import eventually
from tests.unit.journal_stand import ACCOUNT, CI, NEW, OLD, OTHER_ACCOUNT, PLACE, Stand, anchor, in_memory
from tests.world.clock import VirtualClock

NOW = VirtualClock().now()
ROTATION = RotationId("0123456789abcdef")

STEPS: dict[str, Callable[[SqlAccountJournal], object]] = {
    "guard": lambda a: a.guard(),
    "known": lambda a: a.known(CI),
    "failures": lambda a: a.failures(CI),
    "open_rotation": lambda a: a.open_rotation(
        CI, kind=RotationKind.NORMAL, reason=Reason.DUE, asked_by=None, old_key_id=OLD, target=None, at=NOW
    ),
    "create_intended": lambda a: a.create_intended(
        CI, ROTATION, operation_id="op", keys_before=frozenset(), cas=1, place=PLACE, at=NOW
    ),
    "created": lambda a: a.created(CI, ROTATION, NEW, at=NOW),
    "not_created": lambda a: a.not_created(CI, ROTATION, reason=Reason.NOT_CREATED, at=NOW),
    "create_unknown": lambda a: a.create_unknown(CI, ROTATION, detail="lost", at=NOW),
    "publish_intended": lambda a: a.publish_intended(CI, ROTATION, cas=1, at=NOW),
    "published": lambda a: a.published(
        CI, ROTATION, key_id=NEW, place=PLACE, version=2, version_created_at=NOW, at=NOW
    ),
    "burned": lambda a: a.burned(CI, ROTATION, version=2, at=NOW),
    "close_rotation": lambda a: a.close_rotation(CI, ROTATION, reason=Reason.REPAIR, completed=False, at=NOW),
    "start_retirement": lambda a: a.start_retirement(
        CI, OLD, why=RetireWhy.SPARE, reason=Reason.SPARE_KEY, anchor=anchor(), at=NOW
    ),
    "end_retirement": lambda a: a.end_retirement(CI, OLD, reason=Reason.NEW_KEY_GONE, at=NOW),
    "seen_inactive": lambda a: a.seen_inactive(CI, OLD, reason=Reason.SEEN_INACTIVE, at=NOW),
    "change_intended": lambda a: a.change_intended(CI, OLD, verb="delete", reason=Reason.DUE, at=NOW),
    "change_done": lambda a: a.change_done(CI, OLD, verb="delete", at=NOW),
    "seen_active": lambda a: a.seen_active(CI, OLD, at=NOW),
    "move_intended": lambda a: a.move_intended(CI, NEW, to=PLACE, cas=0, at=NOW),
    "moved": lambda a: a.moved(CI, NEW, before=PLACE, to=PLACE, version=1, version_created_at=NOW, at=NOW),
    "change_failed": lambda a: a.change_failed(CI, OLD, verb="delete", detail="no", at=NOW),
    "settle_pending": lambda a: a.settle_pending(CI, OLD, verb="delete", happened=True, at=NOW),
    "proven": lambda a: a.proven(CI, anchor=anchor(), at=NOW),
    "reanchor": lambda a: a.reanchor(CI, anchor=anchor()),
    "restart_clocks": lambda a: a.restart_clocks(CI, reason="broken", anchor=anchor(), at=NOW),
    "held_dead": lambda a: a.held_dead(CI, since=None),
    "failed": lambda a: a.failed(CI, error="no", retry_at=NOW, counts_for_brake=False, at=NOW),
    "succeeded": lambda a: a.succeeded(CI),
    "forget": lambda a: a.forget(CI, reason="gone", at=NOW),
}


def test_every_step_is_tried_below() -> None:
    public = {name for name, _ in inspect.getmembers(SqlAccountJournal, inspect.isfunction) if name[0] != "_"}
    assert public == set(STEPS)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("how", ["taken over", "released", "taken again by the same process"])
def test_a_former_holder_can_do_nothing(step: str, how: str) -> None:
    with in_memory() as stand:
        former = stand.account
        if how == "taken over":
            successor = stand.journal.another_holder()
            stand.journal.die()
            assert successor.acquire(ACCOUNT, actor="daemon") is not None
        else:
            stand.journal.release(former.lease)
        if how == "taken again by the same process":
            assert stand.take().lease.epoch == former.lease.epoch + 1
        before = stand.journal.head()
        with pytest.raises(LeaseLostError, match="no longer held"):
            STEPS[step](former)
        assert stand.journal.head() == before


@pytest.fixture
def stand() -> Iterator[Stand]:
    with in_memory() as stand:
        yield stand


def test_two_threads_of_one_process_exclude_each_other(stand: Stand) -> None:
    assert stand.journal.acquire(ACCOUNT, actor="daemon") is None
    stand.journal.release(stand.account.lease)
    taken: list[SqlAccountJournal | None] = []
    start = threading.Barrier(8)

    def take() -> None:
        start.wait()
        taken.append(stand.journal.acquire(ACCOUNT, actor="daemon"))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each is not None for each in taken) == 1


def test_a_lease_that_this_process_forgot_is_taken_again_with_a_new_epoch(stand: Stand) -> None:
    stand.journal._held.clear()  # as after a commit whose answer was lost
    again = stand.take()
    assert again.lease.epoch == stand.account.lease.epoch + 1


def test_releasing_somebody_elses_lease_does_nothing(stand: Stand) -> None:
    former = stand.account.lease
    stand.journal.release(former)
    current = stand.take()
    stand.journal.release(former)
    current.guard()


def test_accounts_are_held_one_by_one(stand: Stand) -> None:
    assert stand.journal.acquire(OTHER_ACCOUNT, actor="daemon") is not None
    other = stand.journal.another_holder()
    assert other.acquire(ACCOUNT, actor="daemon") is None
    assert other.holder_of(ACCOUNT) == stand.journal.holder
    other.close()


def test_a_guard_wants_a_fresh_heartbeat(stand: Stand) -> None:
    stand.clock.advance(timedelta(seconds=14))
    stand.account.guard()
    stand.clock.advance(timedelta(seconds=1))
    with pytest.raises(LeaseLostError, match="the last heartbeat is 15 s old"):
        stand.account.guard()
    stand.journal.beat()
    stand.account.guard()


def test_a_heart_beats_by_itself() -> None:
    clock = VirtualClock()
    beaten = threading.Event()
    with open_journal("sqlite://", instance="test", clock=clock, lease_ttl=timedelta(milliseconds=60)) as journal:
        taken = journal.acquire(ACCOUNT, actor="daemon")
        assert taken is not None
        with journal.beating():
            clock.advance(timedelta(seconds=1))

            def fresh() -> None:
                while not beaten.is_set():
                    try:
                        taken.guard()
                        beaten.set()
                    except LeaseLostError:
                        continue

            watcher = threading.Thread(target=fresh, daemon=True)
            watcher.start()
            assert beaten.wait(20)
            watcher.join()


def test_a_dead_holder_is_buried_by_the_next_beat(stand: Stand) -> None:
    other = stand.journal.another_holder()
    other.beat()
    assert other.holder_of(ACCOUNT) == stand.journal.holder
    stand.journal.die()
    assert other.holder_of(ACCOUNT) is None
    stand.account.known(CI)  # nobody took it yet
    other.beat()
    with pytest.raises(LeaseLostError, match="no longer held"):
        stand.account.known(CI)
    event = other.history(limit=1)[0]
    assert (event.event, event.detail) == ("holder.died", {"holder": stand.journal.holder, "accounts": 1})


def test_a_simulation_decides_who_lives() -> None:
    dead: set[str] = set()
    clock = VirtualClock()
    with open_journal("sqlite://", instance="test", clock=clock, holder_alive=lambda h: h not in dead) as first:
        second = first.another_holder()
        assert first.acquire(ACCOUNT, actor="daemon") is not None
        assert second.acquire(ACCOUNT, actor="daemon") is None
        dead.add(first.holder)
        assert second.acquire(ACCOUNT, actor="daemon") is not None
        second.close()


def test_a_holder_declared_dead_by_mistake_signs_in_again(stand: Stand) -> None:
    other = stand.journal.another_holder()
    stand.journal.die()
    other.beat()
    stand.journal.beat()
    taken = stand.journal.acquire(ACCOUNT, actor="daemon")
    assert taken is not None
    assert taken.lease.epoch == stand.account.lease.epoch + 1


class Holder:
    """Another process that holds, or wants, the account."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", "tests.contract.holder_process", f"sqlite:///{path}", ACCOUNT]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer = self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.line()

    def end(self) -> None:
        self.process.communicate(timeout=30)

    def kill(self) -> None:
        self.process.kill()
        self.end_pipes()

    def end_pipes(self) -> None:
        self.process.wait(timeout=30)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[SqlJournal]:
    with open_journal(f"sqlite:///{path}", instance="test", clock=VirtualClock()) as journal:
        yield journal


@pytest.mark.slow
def test_two_processes_exclude_each_other(journal: SqlJournal, path: Path) -> None:
    holder = Holder(path)
    assert holder.answer == "held 1"
    assert journal.acquire(ACCOUNT, actor="daemon") is None
    holder.end()
    taken = journal.acquire(ACCOUNT, actor="daemon")
    assert taken is not None
    late = Holder(path)
    assert late.answer == "busy"
    late.end()
    taken.guard()


@pytest.mark.slow
def test_a_killed_process_loses_its_accounts_at_the_next_beat(journal: SqlJournal, path: Path) -> None:
    holder = Holder(path)
    name = journal.holder_of(ACCOUNT)
    assert name is not None
    journal.beat()
    assert journal.holder_of(ACCOUNT) == name
    holder.kill()
    journal.beat()
    assert journal.history(limit=1)[0].detail == {"holder": name, "accounts": 1}
    taken = journal.acquire(ACCOUNT, actor="daemon")
    assert taken is not None
    assert taken.lease.epoch == 2
    owners = Path(f"{path}.owners")
    assert [file.name for file in owners.iterdir()] == [f"{journal.holder}.lock"]


@pytest.mark.slow
def test_a_killed_process_is_succeeded_without_waiting_for_a_beat(journal: SqlJournal, path: Path) -> None:
    Holder(path).kill()
    taken = journal.acquire(ACCOUNT, actor="daemon")
    assert taken is not None
    assert taken.lease.epoch == 2


@pytest.mark.slow
def test_a_frozen_process_is_not_robbed(journal: SqlJournal, path: Path) -> None:
    holder = Holder(path)
    os.kill(holder.process.pid, signal.SIGSTOP)
    journal.beat()
    assert journal.acquire(ACCOUNT, actor="daemon") is None
    os.kill(holder.process.pid, signal.SIGCONT)
    assert holder.say("beat") == "beaten"
    holder.end()


@pytest.mark.slow
def test_a_child_process_does_not_keep_its_dead_parent_alive(path: Path) -> None:
    """The child is made by fork without exec, ends its own work later, and never had the owner's descriptor."""
    program = (
        "import os, sys; from rekeyd.adapters.journal_owners import FileOwners; from pathlib import Path\n"
        "owners = FileOwners(Path(sys.argv[1])); print(owners.enter(), flush=True)\n"
        "if os.fork() == 0: sys.stdin.read(); os._exit(0)\n"
        "os._exit(0)"
    )
    owners = Path(f"{path}.owners")
    parent = subprocess.Popen(
        [sys.executable, "-c", program, owners], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    holder = parent.stdout.readline().strip()
    parent.wait(timeout=30)
    # The child may not have run at all yet; the first thing that it does is to let go of the descriptor.
    eventually(lambda: not FileOwners(owners).alive(holder), "the parent's death")
    parent.stdin.close()
    parent.stdout.close()


def test_an_owner_file_left_by_a_crash_is_swept(tmp_path: Path) -> None:
    owners, other = FileOwners(tmp_path), FileOwners(tmp_path)
    living = owners.enter()
    (tmp_path / "host:1:dead.lock").touch()
    (tmp_path / "host:2:known.lock").touch()
    other.sweep(frozenset({"host:2:known"}))
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["host:2:known.lock", f"{living}.lock"])
    assert other.alive(living)
    owners.leave(living)
    assert not other.alive(living)


def test_an_owner_descriptor_does_not_survive_exec(tmp_path: Path) -> None:
    owners = FileOwners(tmp_path)
    holder = owners.enter()
    assert not os.get_inheritable(owners._held[holder])
    owners.leave(holder)


def test_an_owner_that_cannot_be_probed_counts_as_alive(tmp_path: Path) -> None:
    (tmp_path / "host:1:odd.lock").mkdir()
    assert FileOwners(tmp_path).alive("host:1:odd")
