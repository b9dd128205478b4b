"""More slow and hostile worlds for the real process; run by `make crash`, since each of them waits for something."""

import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.adapters.journal_sqlite import BUSY_TIMEOUT_S
from rekeyd.demo.emulator import HUB, Call, Delay, Drop, HoldBack, SeenRequest
from rekeyd.demo.emulator.gate import Bucket
from tests.acceptance.stand import POLICY, PROGRAM, eventually
from tests.crash.process_lives import BY_NAME, Life
from tests.crash.process_lives import Call as Kind
from tests.crash.process_world import BYSTANDER, CrashWorld
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


@pytest.mark.timeout(400)
def test_minutes_of_throttling_delay_and_break_nothing(world: CrashWorld) -> None:
    buckets: list[Bucket] = []

    def arm(_life: Life) -> None:
        buckets.extend(world.stand.aws.throttle(f"{service}:*", per_second=0.5) for service in ("iam", "sts"))

    with living(world, before=arm):
        _passes(130)
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


def _nothing_destroyed(world: CrashWorld, life: Life) -> None:
    """The old pair is still the held one, and it and the new one may both be used."""
    assert world.stand.statuses(life.user_name) == ["Active", "Active"]
    assert world.stand.held_id(life.user_name) == life.first_key
    assert creates(world, life) == 1


@pytest.mark.parametrize("minutes", [20, -20])
def test_an_aws_that_takes_no_signature_of_our_time_any_more_stops_everything(world: CrashWorld, minutes: int) -> None:
    def jump(_seen: SeenRequest) -> None:
        world.stand.aws.clock.advance(timedelta(minutes=minutes))

    daemon = world.start_daemon(ready=True)
    life = world.begin(_ROTATE)
    life.rules.append(world.stand.aws.fault("CreateAccessKey", do=Call(jump), when="after"))
    _ROTATE.begin(world, life)
    assert life.first_key is not None
    # The consumer's clock is the machine's too.
    life.expected_dead.add(life.first_key)
    eventually(life.rules[0].hit.is_set, "the jump", alive=daemon)
    daemon.wait_for_event("pass.failed")
    # Longer than `verify_timeout`.
    _passes(25)
    _nothing_destroyed(world, life)
    assert [seen for seen in world.stand.aws.calls("*AccessKey", user=life.user_name) if seen.status == 200] == (
        world.stand.aws.calls("CreateAccessKey", user=life.user_name)
    )
    world.stand.aws.clock.advance(timedelta(minutes=-minutes))
    world.bring_to_rest(life)
    assert [*life.wrongs, *world.broken] == []
    # The first one could not be proven in time, and was given up unused.
    assert creates(world, life) in (1, 2)
    world.end(life)


def test_a_disk_that_is_full_once_a_key_was_made_loses_nothing(world: CrashWorld) -> None:
    def fill(_seen: SeenRequest) -> None:
        assert world.daemon is not None
        resource.prlimit(world.daemon.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def arm(life: Life) -> None:
        life.rules.append(world.stand.aws.fault("CreateAccessKey", do=Call(fill), when="after"))

    with living(world, before=arm) as life:
        daemon = world.daemon
        assert daemon is not None
        eventually(life.rules[0].hit.is_set, "the full disk", alive=daemon)
        eventually(
            lambda: any(line["event"] in ("journal.failed", "pass.failed") for line in daemon.events),
            "the daemon's word that its journal cannot be written",
            alive=daemon,
        )
        _passes(5)
        assert world.stand.held_id(life.user_name) == life.first_key
        assert world.stand.aws.key(str(life.first_key)).status == "Active"
        assert creates(world, life) == 1
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    # The key whose id could not be written down is removed, and another one is made.
    assert creates(world, life) in (1, 2)


def test_a_journal_that_stays_locked_longer_than_anybody_waits_loses_nothing(world: CrashWorld) -> None:
    with contextlib.ExitStack() as stack:

        def lock(_seen: SeenRequest) -> None:
            connection = sqlite3.connect(world.stand.journal, isolation_level=None, check_same_thread=False)
            stack.enter_context(contextlib.closing(connection))
            connection.execute("BEGIN IMMEDIATE")

        def arm(life: Life) -> None:
            life.rules.append(world.stand.aws.fault("CreateAccessKey", do=Call(lock), when="after"))

        with living(world, before=arm) as life:
            assert world.daemon is not None
            eventually(life.rules[0].hit.is_set, "the lock", alive=world.daemon)
            _passes(BUSY_TIMEOUT_S + 5)
            assert world.stand.held_id(life.user_name) == life.first_key
            assert world.stand.aws.key(str(life.first_key)).status == "Active"
            assert creates(world, life) == 1
            stack.close()
    assert creates(world, life) in (1, 2)


def test_a_write_that_lands_while_vault_stays_away_past_publish_timeout_loses_nothing(world: CrashWorld) -> None:
    def arm(life: Life) -> None:
        landed = world.fault(_PUBLISH, life, do=Call(lambda _seen: None), when="after")
        world.fault(_PUBLISH, life, do=Drop(), when="after")
        # Consumers have a way of their own.
        life.rules.append(world.vault.fault("*", do=Drop(), forever=True, where=lambda _seen: landed.hit.is_set()))

    with living(world, before=arm) as life:
        eventually(life.rules[0].hit.is_set, "the write whose answer is lost")
        # Longer than `publish_timeout`.
        _passes(14)
        assert world.stand.statuses(life.user_name) == ["Active", "Active"]
        assert world.stand.held_id(life.user_name) != life.first_key
        life.rules[2].cancel()
    assert creates(world, life) == 1


def test_a_first_write_that_arrives_when_its_key_is_long_gone_changes_nothing(world: CrashWorld) -> None:
    def kill(_seen: SeenRequest) -> None:
        assert world.daemon is not None
        world.daemon.process.send_signal(signal.SIGKILL)

    world.start_daemon(ready=True)
    life = world.begin(BY_NAME["adopt"])
    world.fault(_PUBLISH, life, do=Call(kill), when="before")
    kept = world.fault(_PUBLISH, life, do=HoldBack(), when="before")
    life.cycle.begin(world, life)
    world.bring_to_rest(life)
    held = world.stand.held_id(life.user_name)
    (late,) = kept.deliver()
    assert late.status == 400
    assert world.stand.held_id(life.user_name) == held
    world.judge(life)
    assert [*life.wrongs, *world.broken] == []
    assert creates(world, life) == 2
    world.end(life)


def test_somebody_patches_another_field_every_second_and_the_clocks_run_out(world: CrashWorld) -> None:
    done = threading.Event()

    def patch(life: Life) -> None:
        path, number = world.stand.vault_path(life.user_name), 0
        with world.stand.bao.client() as client:
            while not done.wait(1):
                number += 1
                # By hand: the library reads and writes instead.
                client.adapter.request(
                    "patch",
                    f"v1/{world.stand.mount}/data/{path}",
                    json={"data": {"note": str(number)}},
                    headers={"Content-Type": "application/merge-patch+json"},
                )

    with living(world) as life:
        assert world.daemon is not None
        eventually(lambda: world.stand.held_id(life.user_name) != life.first_key, "the new pair", alive=world.daemon)
        patching = threading.Thread(target=patch, args=(life,), daemon=True)
        patching.start()
        try:
            world.bring_to_rest(life)
        finally:
            done.set()
            patching.join()
    stored = world.stand.held(life.user_name)
    assert stored is not None
    assert "note" in stored.data
    assert creates(world, life) == 1


_CREATE = Kind("iam", "CreateAccessKey", "user")
_PUBLISH = Kind("vault", "POST {mount}/data/{user}", "user")
_STEPS = (
    _CREATE,
    _PUBLISH,
    Kind("iam", "UpdateAccessKey", "user"),
    Kind("iam", "DeleteAccessKey", "user"),
    Kind("vault", "POST {mount}/data/{mark}", "mark"),
)


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


_FROZEN = (
    *(("rotate", step) for step in _STEPS[1:4]),
    *((name, _PUBLISH) for name in ("adopt", "create", "emergency", "rollback", "reactivate", "repair")),
    ("emergency", _STEPS[2]),
    ("reactivate", _STEPS[2]),
)


@pytest.mark.parametrize(("cycle", "step"), _FROZEN, ids=str)
def test_a_process_frozen_past_its_lease_right_before_a_change_goes_on_and_nobody_beside_it(
    world: CrashWorld, cycle: str, step: Kind
) -> None:
    world.start_daemon(ready=True)
    undisturbed = world.begin(BY_NAME[cycle])
    undisturbed.cycle.begin(world, undisturbed)
    world.bring_to_rest(undisturbed)
    assert [*undisturbed.wrongs, *world.broken] == []
    calls = world.calls(undisturbed)
    world.end(undisturbed)
    place = calls.index(step)
    last = calls[place - 1]

    def freeze(_seen: SeenRequest) -> None:
        for running in world.programs():
            running.process.send_signal(signal.SIGSTOP)

    life = world.begin(BY_NAME[cycle])
    made_before = creates(world, life)
    world.fault(last, life, do=Call(freeze), when="answered", nth=calls[:place].count(last))
    life.cycle.begin(world, life)
    frozen = world.programs()
    try:
        eventually(life.rules[0].hit.is_set, "the freeze")
        before = world.stand.statuses(life.user_name), world.stand.held_id(life.user_name)
        beside = world.stand.start("rotate-now", life.user_name, "--lock-timeout", "2s", "--json").wait(limit=90)
        assert beside.code == 5, beside.out
        _passes(_PAST_ITS_LEASE_SECONDS)
        assert (world.stand.statuses(life.user_name), world.stand.held_id(life.user_name)) == before
    finally:
        for running in frozen:
            running.process.send_signal(signal.SIGCONT)
    world.bring_to_rest(life)
    assert [*life.wrongs, *world.broken] == []
    made = creates(world, life) - made_before
    if cycle in ("rollback", "reactivate"):
        assert made == 0
    else:
        # A signal comes a moment late: the write was sent already, or past `publish_timeout` another key is made.
        assert made in ((1, 2) if step is _PUBLISH else (1,))
    world.end(life)


def test_two_deployments_with_one_mark_do_not_work_against_each_other(world: CrashWorld) -> None:
    stand = world.stand
    # Long enough for the other one to begin in it.
    stand.write_config({"exclude": {"users": ["rekeyd", BYSTANDER]}, "overlap": "20s"}, scan_every="1s")
    first = world.start_daemon(ready=True)
    life = world.begin(_ROTATE)
    _ROTATE.begin(world, life)
    eventually(lambda: stand.held_id(life.user_name) not in (None, life.first_key), "the new pair", alive=first)
    new = stand.held_id(life.user_name)
    own = {
        "REKEYD_JOURNAL__URL": f"sqlite:///{stand.folder / 'second' / 'journal.db'}",
        "REKEYD_HTTP__LISTEN": "127.0.0.1:0",
    }
    second = stand.start("run", env=own)
    second.wait_for_event("daemon.became_ready")

    def left_alone() -> bool:
        return (world.entry(life) or {}).get("reason") == "mark_of_another_instance"

    eventually(left_alone, "the first one's refusal", alive=first)
    eventually(lambda: len(stand.statuses(life.user_name)) == 1, "the end of the old key", alive=second)
    assert left_alone()
    assert stand.statuses(life.user_name) == ["Active"]
    assert stand.held_id(life.user_name) == new
    assert creates(world, life) == 1
    world.judge(life)
    assert [*life.wrongs, *world.broken] == []
    world.end(life)
    assert second.stop().code == 0


def test_two_accounts_on_one_path_are_both_refused(world: CrashWorld) -> None:
    stand, member = world.stand, "222222222222"
    role = stand.aws.add_role(member, "rekeyd")
    shared = {**POLICY, "path": "aws/shared/{user_name}"}
    stand.write_config(
        policies=[{**shared, "name": f"of-{each}", "match": {"accounts": [each]}} for each in (HUB, member)],
        accounts={HUB: None, member: role},
        scan_every="1s",
    )
    path = "aws/shared/deploy"
    user = stand.user("deploy", held=False)
    stand.user("deploy", account_id=member, held=False)
    pair = {"access_key_id": user.key.access_key_id, "secret_access_key": user.key.secret_access_key}
    version = stand.bao.write(path, pair, mount=stand.mount)
    daemon = world.start_daemon(ready=True)

    def refused() -> bool:
        lines = [line for line in daemon.events if line.get("reason") == "path_collision"]
        return {line["account_id"] for line in lines if line.get("principal") == "deploy"} == {HUB, member}

    eventually(refused, "both refusals", alive=daemon)
    daemon.wait_for_event("pass.finished", count=6)
    served = stand.bao.read(path, mount=stand.mount)
    assert served is not None
    assert (served.version, served.data) == (version, pair)
    for account_id in (HUB, member):
        assert stand.statuses("deploy", account_id) == ["Active"]
    assert stand.aws.calls("*AccessKey") == []


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
