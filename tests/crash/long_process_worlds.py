"""More slow and hostile worlds for the real process; run by `make crash`, since each of them waits for something."""

import contextlib
import shutil
import signal
import sqlite3
import time
from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.demo.emulator import Call, SeenRequest
from rekeyd.demo.emulator.gate import Bucket
from tests.acceptance.stand import eventually
from tests.crash.process_world import BY_NAME, CrashWorld, Life
from tests.crash.process_world import Call as Kind
from tests.crash.test_process_worlds import creates, living, locked

pytestmark = pytest.mark.slow
_ROTATE = BY_NAME["rotate"]


def _passes(seconds: float) -> None:
    """The real process keeps real time."""
    ends = time.monotonic() + seconds
    eventually(lambda: time.monotonic() > ends, "time", limit=seconds + 5)


def test_a_journal_locked_by_another_process_delays_and_breaks_nothing(world: CrashWorld) -> None:
    world.start_daemon(ready=True)
    life = world.begin(_ROTATE)
    with locked(world):
        _ROTATE.begin(world, life)
        _passes(8)
        assert creates(world, life) == 0
        assert world.stand.statuses(life.user_name) == ["Active"]
    world.bring_to_rest(life)
    assert [*life.wrongs, *world.broken] == []
    assert creates(world, life) == 1


def test_a_long_time_of_throttling_delays_and_breaks_nothing(world: CrashWorld) -> None:
    buckets: list[Bucket] = []

    def arm(_life: Life) -> None:
        buckets.extend(world.stand.aws.throttle(f"{service}:*", per_second=0.5) for service in ("iam", "sts"))

    with living(world, before=arm):
        _passes(20)
        for bucket in buckets:
            bucket.lift()


def test_an_aws_whose_time_is_five_minutes_behind_breaks_nothing(world: CrashWorld) -> None:
    world.stand.aws.clock.advance(timedelta(minutes=-5))
    with living(world):
        pass


def _published_and_on_hold(world: CrashWorld, life: Life, *, or_at_rest: bool = False) -> None:
    """AWS says that the old key was used at a time that has not come: it stays Active until that is over."""

    def held_back() -> bool:
        entry = world.entry(life) or {}
        return (entry.get("state"), entry.get("reason")) == ("on_hold", "still_used")

    eventually(lambda: held_back() or (or_at_rest and world.at_rest(life)), "the old key on hold")
    assert or_at_rest or world.stand.statuses(life.user_name) == ["Active", "Active"]
    assert world.stand.held_id(life.user_name) != life.first_key
    assert creates(world, life) == 1
    world.judge(life)
    assert [*life.wrongs, *world.broken] == []
    world.end(life)


def test_an_aws_whose_time_is_five_minutes_ahead_only_delays_the_old_keys_end(world: CrashWorld) -> None:
    world.stand.aws.clock.advance(timedelta(minutes=5))
    world.start_daemon(ready=True)
    life = world.begin(_ROTATE)
    _ROTATE.begin(world, life)
    _published_and_on_hold(world, life)


def test_the_time_of_aws_may_jump_ahead_in_the_middle_of_a_rotation(world: CrashWorld) -> None:
    def jump(_seen: SeenRequest) -> None:
        world.stand.aws.clock.advance(timedelta(minutes=5))

    world.start_daemon(ready=True)
    life = world.begin(_ROTATE)
    life.rules.append(world.stand.aws.fault("CreateAccessKey", do=Call(jump), when="after"))
    _ROTATE.begin(world, life)
    eventually(life.rules[0].hit.is_set, "the jump")
    # Used once more after the jump or not: that is up to the consumer.
    _published_and_on_hold(world, life, or_at_rest=True)


_STEPS = (
    Kind("iam", "CreateAccessKey", "user"),
    Kind("vault", "POST {mount}/data/{user}", "user"),
    Kind("iam", "UpdateAccessKey", "user"),
    Kind("iam", "DeleteAccessKey", "user"),
    Kind("vault", "POST {mount}/data/{mark}", "mark"),
)


@pytest.mark.parametrize("step", _STEPS, ids=str)
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP], ids=lambda sig: sig.name)
def test_a_signal_in_the_middle_of_a_step_loses_nothing(world: CrashWorld, step: Kind, sig: signal.Signals) -> None:
    def send(_seen: SeenRequest) -> None:
        assert world.daemon is not None
        world.daemon.process.send_signal(sig)

    def arm(life: Life) -> None:
        world.fault(step, life, do=Call(send), when="after")

    with living(world, before=arm) as life:
        assert world.daemon is not None
        eventually(life.rules[0].hit.is_set, "the signal")
        if sig is signal.SIGTERM:
            assert world.daemon.wait().code == 0
            world.start_daemon()
        else:
            world.daemon.wait_for_event("config.reloaded")


def test_a_journal_restored_from_an_old_copy_deletes_nothing_wrong(world: CrashWorld, tmp_path: Path) -> None:
    copy = tmp_path / "old-copy"
    with living(world) as life:
        eventually(lambda: creates(world, life) == 1, "the new key")
        with (
            contextlib.closing(sqlite3.connect(world.stand.journal)) as journal,
            contextlib.closing(sqlite3.connect(copy)) as into,
        ):
            journal.backup(into)
    assert world.daemon is not None
    world.daemon.stop(signal.SIGKILL)
    for file in world.stand.journal.parent.glob("journal.db*"):
        if file.is_file():
            file.unlink()
    shutil.copy(copy, world.stand.journal)
    again = world.begin(_ROTATE)
    _ROTATE.begin(world, again)
    daemon = world.start_daemon()
    _passes(10)
    assert world.stand.serves_a_live_pair(again.user_name)
    # Whatever the old copy believes, the key that Vault serves and keys it does not know stay.
    assert world.broken == []
    assert daemon.process.poll() is None or daemon.process.returncode in (1, 2)
    world.end(again)
