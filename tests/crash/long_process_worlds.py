"""More slow and hostile worlds for the real process; run by `make crash`, since each of them waits for something."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.demo.emulator import Call, Delay, SeenRequest
from rekeyd.demo.emulator.gate import Bucket
from tests.acceptance.stand import PROGRAM, eventually
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


_CREATE = Kind("iam", "CreateAccessKey", "user")
_PUBLISH = Kind("vault", "POST {mount}/data/{user}", "user")
_STEPS = (
    _CREATE,
    _PUBLISH,
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


# Longer than any client of ours waits for the answer to a change.
_TOO_LATE_SECONDS = 12.0
# Longer than `LEASE_TTL`, after which a holder that does not beat may not change anything.
_PAST_ITS_LEASE_SECONDS = 32.0


@pytest.mark.parametrize("step", _STEPS, ids=str)
def test_an_answer_that_comes_when_nobody_waits_any_more_loses_nothing(world: CrashWorld, step: Kind) -> None:
    def arm(life: Life) -> None:
        world.fault(step, life, do=Delay(_TOO_LATE_SECONDS), when="after")

    with living(world, before=arm) as life:
        eventually(lambda: life.rules[0].fired == 1, "the change whose answer is late")
    # A secret that nobody received is gone: that key is found and removed, and another intent makes one.
    assert creates(world, life) == (2 if step is _CREATE else 1)


@pytest.mark.parametrize("step", _STEPS[1:4], ids=str)
def test_a_process_frozen_past_its_lease_right_before_a_change_goes_on_and_nobody_beside_it(
    world: CrashWorld, step: Kind
) -> None:
    with living(world) as undisturbed:
        pass
    # The calls of an ended life are still in the journals of both servers.
    calls = world.calls(undisturbed)
    place = calls.index(step)
    last = calls[place - 1]

    def freeze(_seen: SeenRequest) -> None:
        assert world.daemon is not None
        world.daemon.process.send_signal(signal.SIGSTOP)

    def arm(life: Life) -> None:
        nth = calls[:place].count(last)
        world.fault(last, life, do=Call(freeze), when="answered", nth=nth)

    daemon = world.daemon
    assert daemon is not None
    life = world.begin(_ROTATE)
    arm(life)
    _ROTATE.begin(world, life)
    try:
        eventually(life.rules[0].hit.is_set, "the freeze")
        before = world.stand.statuses(life.user_name), world.stand.held_id(life.user_name)
        beside = world.stand.start("rotate-now", life.user_name, "--lock-timeout", "2s", "--json").wait(limit=90)
        assert beside.code == 5, beside.out
        _passes(_PAST_ITS_LEASE_SECONDS)
        assert (world.stand.statuses(life.user_name), world.stand.held_id(life.user_name)) == before
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    world.bring_to_rest(life)
    assert [*life.wrongs, *world.broken] == []
    # A signal comes a moment late: the write was sent already, or past `publish_timeout` another key is made instead.
    assert creates(world, life) in ((1, 2) if step is _PUBLISH else (1,))
    world.end(life)


def test_the_time_of_aws_may_jump_back_in_the_middle_of_a_rotation(world: CrashWorld) -> None:
    def jump(_seen: SeenRequest) -> None:
        world.stand.aws.clock.advance(timedelta(minutes=-5))

    def arm(life: Life) -> None:
        life.rules.append(world.stand.aws.fault("CreateAccessKey", do=Call(jump), when="after"))

    with living(world, before=arm) as life:
        eventually(life.rules[0].hit.is_set, "the jump")
    # The emulated AWS honours a key from when it was made, which is now in its future: that key is given up unused.
    assert creates(world, life) in (1, 2)


def test_a_command_beside_a_process_that_stands_still_in_the_middle_of_a_write_says_busy(world: CrashWorld) -> None:
    world.start_daemon(ready=True)
    life = world.begin(_ROTATE)
    assert world.daemon is not None
    world.daemon.process.send_signal(signal.SIGSTOP)
    try:
        with locked(world):
            _ROTATE.begin(world, life)
            beside = world.stand.start("rotate-now", life.user_name, "--lock-timeout", "2s", "--json").wait(limit=90)
    finally:
        world.daemon.process.send_signal(signal.SIGCONT)
    assert beside.code == 5, beside.out
    assert world.stand.statuses(life.user_name) == ["Active"]
    world.bring_to_rest(life)
    assert [*life.wrongs, *world.broken] == []
    world.end(life)


def test_a_daemon_whose_journals_directory_is_read_only_says_so_and_changes_nothing(world: CrashWorld) -> None:
    folder = world.stand.journal.parent
    read_only = f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"
    own_namespace = ["unshare", "--mount", "sh", "-ec", f'{read_only}; exec "$@"', "sh"]
    world.start_daemon(ready=True).stop()
    if subprocess.run([*own_namespace, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("only root may have a mount namespace of its own here")
    life = world.begin(_ROTATE)
    _ROTATE.begin(world, life)
    sent = len(world.stand.aws.requests)
    ended = subprocess.run(
        [*own_namespace, *PROGRAM, "run"],
        env={**world.stand.environment, "PATH": os.environ["PATH"]},
        cwd=world.stand.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1, ended.stderr
    assert "cannot be opened for writing" in ended.stderr
    changes = [seen for seen in world.stand.aws.requests[sent:] if seen.op.endswith("AccessKey")]
    assert changes == []
    world.start_daemon()
    world.bring_to_rest(life)
    assert [*life.wrongs, *world.broken] == []
    world.end(life)
