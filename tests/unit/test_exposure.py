"""A key in wrong hands: an alarm, and by policy replaced by the daemon itself, once, with every promise kept."""

from dataclasses import replace
from datetime import date, timedelta

import pytest

from rekeyd.core.model import AccessKeyId, KeyStatus
from rekeyd.core.policy import Adopt, Freeze, Match, OnExposed, Policy
from rekeyd.core.state import State
from rekeyd.fleet.alarms import AlarmKeeper
from rekeyd.fleet.exposure import ASK_AGAIN_AFTER
from rekeyd.fleet.settings import FleetSettings, Mode
from rekeyd.ports import Brake, ExposureNotice
from tests.rig import ACCOUNT, DAY, Rig, asked, policy
from tests.world import Crash, World
from tests.world.points import Phase

HOUR = timedelta(hours=1)
QUARANTINE = "AWSCompromisedKeyQuarantineV3"
ROTATE = policy(on_exposed=OnExposed.ROTATE)


class Watched:
    """The passes of a daemon over one account, on the in-memory world."""

    def __init__(self, *policies: Policy, mode: Mode = Mode.ENFORCE, world: World | None = None) -> None:
        settings = FleetSettings(max_parallel=1, mode=mode)
        self.rig = Rig(*policies, settings=settings, world=world, journal_points=True)
        self.world = self.rig.world
        self.boot()

    def boot(self) -> None:
        rig = self.rig
        self.fleet = rig.fleet(AlarmKeeper(journal=rig.port, clock=self.world.clock, repeat_every=4 * HOUR))

    def restart(self) -> None:
        self.rig.restart()
        self.boot()

    def hours(self, count: int) -> None:
        for _ in range(count):
            self.fleet.scan_pass(ACCOUNT)
            self.world.clock.advance(HOUR)

    def quarantine(self, user: str = "ci") -> None:
        self.world.account(ACCOUNT).quarantined[user] = QUARANTINE

    def expose(self, key_id: str, user: str = "ci") -> None:
        self.fleet.watch.expose(ACCOUNT, user, key_id, because="seen in a log", by="user:test")  # type: ignore[arg-type]

    def notice(self, key_id: AccessKeyId, user: str | None = "ci") -> None:
        """AWS Health tells of it from now on, and goes on when the key is not Active any more."""
        told = ExposureNotice(
            code="AWS_RISK_CREDENTIALS_EXPOSED",
            since=self.world.clock.now(),
            entity=key_id,
            user_name=user,
            key_ids=() if user is None else (key_id,),
        )
        account = self.world.account(ACCOUNT)
        account.exposure_notices = (*(account.exposure_notices or ()), told)

    @property
    def emergencies(self) -> int:
        return sum(request.asked.emergency for request in self.rig.journal.requests(open_only=False))

    @property
    def made(self) -> int:
        return self.world.counts["iam.create_access_key"]


def test_a_quarantined_user_is_rotated_once_and_its_old_key_is_inactive() -> None:
    watched = Watched(ROTATE)
    watched.world.user(ACCOUNT, "ci", age=10 * DAY)
    (old,) = watched.world.keys(ACCOUNT, "ci")
    watched.hours(2)
    watched.quarantine()
    watched.hours(3)
    assert watched.world.held_id(ACCOUNT, "ci") != old.id
    assert watched.world.key(old.id).status is KeyStatus.INACTIVE
    assert watched.world.consumer(ACCOUNT, "ci")
    # AWS's policy stays until a person detaches it; the new key is not the exposed one.
    watched.hours(12)
    assert (watched.made, watched.emergencies) == (1, 1)
    watched.world.check_promises()


def test_the_same_policy_attached_again_later_is_another_exposure() -> None:
    watched = Watched(ROTATE)
    watched.world.user(ACCOUNT, "ci", age=10 * DAY)
    watched.hours(1)
    (old,) = watched.world.keys(ACCOUNT, "ci")
    watched.quarantine()
    watched.hours(10)
    watched.world.account(ACCOUNT).quarantined.clear()
    watched.hours(5)
    # As --emergency: the slot that the earlier old key's quarantine takes is needed now.
    watched.world.waive_quarantine(old.id)
    watched.quarantine()
    watched.hours(10)
    assert (watched.made, watched.emergencies) == (2, 2)
    watched.world.check_promises()


@pytest.mark.parametrize(
    ("policies", "mode"),
    [((policy(),), Mode.ENFORCE), ((ROTATE,), Mode.OBSERVE)],
    ids=["by default", "in observe mode"],
)
def test_an_exposure_is_only_an_alarm(policies: tuple[Policy, ...], mode: Mode) -> None:
    watched = Watched(*policies, mode=mode)
    watched.world.user(ACCOUNT, "ci", age=10 * DAY)
    (old,) = watched.world.keys(ACCOUNT, "ci")
    watched.hours(1)
    watched.quarantine()
    watched.expose(old.id)
    watched.hours(5)
    assert (watched.made, watched.emergencies) == (0, 0)
    assert {alarm.reason for alarm in watched.rig.journal.alarms()} >= {"user_compromised", "key_exposed"}


def test_a_user_that_vault_or_a_policy_does_not_know_is_left_alone() -> None:
    watched = Watched(policy(on_exposed=OnExposed.ROTATE, adopt=Adopt.WHEN_ASKED, exclude=Match(users=("left",))))
    for name in ("handmade", "left"):
        watched.world.user(ACCOUNT, name, age=10 * DAY, held=name == "left")
    watched.hours(2)
    assert watched.rig.status("handmade").state == State.UNMANAGED
    for name in ("handmade", "left"):
        (only,) = watched.world.keys(ACCOUNT, name)
        watched.quarantine(name)
        watched.expose(only.id, name)
    watched.hours(5)
    assert (watched.made, watched.emergencies) == (0, 0)
    watched.world.check_promises()


def test_a_key_that_a_person_names_is_replaced_at_the_next_pass_and_its_alarm_ends() -> None:
    watched = Watched(ROTATE)
    watched.world.user(ACCOUNT, "ci", age=10 * DAY)
    (old,) = watched.world.keys(ACCOUNT, "ci")
    watched.hours(1)
    watched.expose(old.id)
    watched.expose(old.id)
    assert watched.emergencies == 1
    assert watched.fleet.has_due(ACCOUNT)
    watched.hours(3)
    assert watched.world.key(old.id).status is KeyStatus.INACTIVE
    assert "key_exposed" not in {alarm.reason for alarm in watched.rig.journal.alarms()}
    watched.hours(12)
    assert (watched.made, watched.emergencies) == (1, 1)
    watched.world.check_promises()


def test_a_persons_word_and_awss_notice_of_one_key_are_one_rotation() -> None:
    watched = Watched(ROTATE)
    watched.world.user(ACCOUNT, "ci", age=10 * DAY)
    (old,) = watched.world.keys(ACCOUNT, "ci")
    watched.hours(1)
    watched.expose(old.id)
    watched.quarantine()
    watched.hours(12)
    assert (watched.made, watched.emergencies) == (1, 1)


def test_a_key_of_which_aws_health_tells_is_replaced_once() -> None:
    watched = Watched(ROTATE)
    watched.world.user(ACCOUNT, "ci", age=10 * DAY)
    (old,) = watched.world.keys(ACCOUNT, "ci")
    watched.hours(2)
    watched.notice(old.id)
    watched.hours(12)
    assert watched.world.key(old.id).status is KeyStatus.INACTIVE
    assert (watched.made, watched.emergencies) == (1, 1)
    watched.world.check_promises()


@pytest.mark.parametrize(
    ("policies", "mode"),
    [((policy(),), Mode.ENFORCE), ((ROTATE,), Mode.OBSERVE)],
    ids=["by default", "in observe mode"],
)
def test_what_aws_health_tells_is_only_an_alarm(policies: tuple[Policy, ...], mode: Mode) -> None:
    watched = Watched(*policies, mode=mode)
    watched.world.user(ACCOUNT, "ci", age=10 * DAY)
    (old,) = watched.world.keys(ACCOUNT, "ci")
    watched.notice(old.id)
    watched.hours(3)
    assert (watched.made, watched.emergencies) == (0, 0)
    (alarm,) = [each for each in watched.rig.journal.alarms() if each.reason == "user_compromised"]
    assert (alarm.severity, alarm.principal) == ("critical", "ci")
    assert old.id in alarm.message
    watched.world.account(ACCOUNT).exposure_notices = ()
    watched.hours(2)
    assert "user_compromised" not in {each.reason for each in watched.rig.journal.alarms()}


def test_all_that_aws_says_of_one_key_is_one_rotation() -> None:
    watched = Watched(ROTATE)
    watched.world.user(ACCOUNT, "ci", age=10 * DAY)
    (old,) = watched.world.keys(ACCOUNT, "ci")
    watched.hours(1)
    watched.quarantine()
    watched.notice(old.id)
    watched.hours(12)
    assert (watched.made, watched.emergencies) == (1, 1)


def test_a_notice_of_nobody_who_can_be_told_rotates_nobody() -> None:
    watched = Watched(ROTATE)
    watched.world.user(ACCOUNT, "ci", age=10 * DAY)
    (old,) = watched.world.keys(ACCOUNT, "ci")
    watched.notice(old.id, user=None)
    watched.hours(3)
    assert (watched.made, watched.emergencies) == (0, 0)
    assert {alarm.reason for alarm in watched.rig.journal.alarms()} >= {"credentials_exposed"}


def test_a_person_who_was_quicker_leaves_nothing_to_do() -> None:
    watched = Watched(ROTATE)
    watched.world.user(ACCOUNT, "ci", age=10 * DAY)
    (old,) = watched.world.keys(ACCOUNT, "ci")
    watched.hours(1)
    watched.rig.journal.ask(ACCOUNT, "ci", asked(emergency=True, at=watched.world.clock.now()))
    watched.expose(old.id)
    watched.hours(12)
    assert watched.emergencies == 1
    assert watched.made == 1


def test_neither_brake_nor_freeze_nor_window_binds_it() -> None:
    watched = Watched(ROTATE)
    watched.rig.windows = lambda _policy, _now: ()
    watched.rig.settings = replace(
        watched.rig.settings,
        freezes=(Freeze(first_day=date(2020, 1, 1), last_day=date(2040, 1, 1), reason="year end"),),
    )
    watched.rig.boot()
    watched.boot()
    watched.world.user(ACCOUNT, "ci", age=10 * DAY)
    (old,) = watched.world.keys(ACCOUNT, "ci")
    watched.hours(1)
    now = watched.world.clock.now()
    brake = Brake(account_id=ACCOUNT, engaged_at=now, retry_at=now + DAY, failures=5, detail="five users failed")
    watched.rig.journal.engage_brake(brake, at=now)
    watched.expose(old.id)
    watched.hours(2)
    assert watched.world.key(old.id).status is KeyStatus.INACTIVE
    watched.world.check_promises()


def test_what_was_refused_is_asked_for_again_an_hour_later_and_no_sooner() -> None:
    watched = Watched(ROTATE)
    watched.world.user(ACCOUNT, "ci", age=10 * DAY)
    (old,) = watched.world.keys(ACCOUNT, "ci")
    watched.hours(1)
    stray = watched.world.operators.create_key(ACCOUNT, "ci")
    watched.expose(old.id)
    watched.fleet.scan_pass(ACCOUNT)
    watched.world.clock.advance(ASK_AGAIN_AFTER - timedelta(seconds=1))
    watched.fleet.scan_pass(ACCOUNT)
    assert [r.answer for r in watched.rig.journal.requests(open_only=False)] == ["refused"]
    watched.world.operators.delete_key(stray.access_key_id)
    watched.hours(4)
    assert [r.answer for r in watched.rig.journal.requests(open_only=False)] == ["refused", "published"]
    assert watched.world.key(old.id).status is KeyStatus.INACTIVE
    watched.world.check_promises()


@pytest.mark.parametrize("when", list[Phase](["before", "after"]))
@pytest.mark.parametrize("point", ["journal.tell_exposed_once", "journal.ask_for_exposed", "journal.published"])
def test_a_crash_around_the_asking_neither_loses_nor_doubles_the_rotation(point: str, when: Phase) -> None:
    watched = Watched(ROTATE)
    watched.world.user(ACCOUNT, "ci", age=10 * DAY)
    (old,) = watched.world.keys(ACCOUNT, "ci")
    watched.hours(1)
    watched.quarantine()
    with watched.world.fault(point, error=Crash(point), when=when), pytest.raises(Crash, match=point):
        watched.hours(3)
    watched.restart()
    watched.hours(12)
    assert watched.world.key(old.id).status is KeyStatus.INACTIVE
    assert watched.emergencies == 1
    assert len(watched.world.keys(ACCOUNT, "ci")) == 2
    watched.world.check_promises()
