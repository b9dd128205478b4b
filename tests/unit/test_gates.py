"""What keeps a rotation from being opened, and the brake: when it engages, what it binds, what releases it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pytest

from rekeyd.adapters.journal import SqlJournal, open_journal
from rekeyd.core.actions import OpenRotation
from rekeyd.core.model import AccountId, Gate, RotationKind, UserId
from rekeyd.core.policy import Freeze
from rekeyd.core.reasons import Reason
from rekeyd.errors import AccessDeniedError, PostponedError, TemporaryError
from rekeyd.fleet.gates import Gates
from rekeyd.fleet.settings import FleetSettings, Mode
from tests.conftest import LogLines
from tests.rig import ACCOUNT, DAY, Rig, asked, policy
from tests.unit.journal_stand import user
from tests.world import VirtualClock

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
FIRST, SECOND_ACCOUNT, THIRD = AccountId("111122223333"), AccountId("444455556666"), AccountId("777788889999")
DUE = OpenRotation(kind=RotationKind.NORMAL, reason=Reason.DUE)
RETRY = HOUR
AT_LEAST = HOUR / 12
"""After which a postponed rotation is tried again at the earliest: the third step of the back-off."""


@dataclass(slots=True)
class Stand:
    journal: SqlJournal
    clock: VirtualClock
    gates: Gates

    def fail(self, *users: str, account: AccountId = FIRST) -> None:
        for name in users:
            self.gates.issued(account, UserId(name), failed=True, detail="Vault said no")

    def succeed(self, name: str = "well", *, account: AccountId = FIRST) -> None:
        self.gates.issued(account, UserId(name), failed=False)

    def braked(self) -> set[AccountId | None]:
        return {brake.account_id for brake in self.journal.brakes()}

    def opens(self, account: AccountId = FIRST) -> bool:
        """Whether the policy may open a rotation; if so it is under way."""
        if self.gates.gate(account) is not None:
            return False
        try:
            self.gates.before_open(DUE, None, account)
        except PostponedError as postponed:
            return postponed.reason is not Reason.BRAKED
        return True


def stand(settings: FleetSettings) -> Stand:
    clock = VirtualClock()
    journal = open_journal("sqlite://", instance="test", clock=clock, lease_ttl=1000 * DAY)
    return Stand(journal, clock, Gates(journal=journal, clock=clock, settings=settings))


@pytest.fixture
def it() -> Iterator[Stand]:
    made = stand(FleetSettings(max_rotations_per_hour=2))
    yield made
    made.journal.close()


# --- the brake engages ------------------------------------------------------------------------------------------------


def test_five_different_users_in_a_row_brake_their_account(it: Stand) -> None:
    it.fail("a", "b", "c", "d")
    assert it.braked() == set()
    it.fail("e")
    assert it.braked() == {FIRST}
    (brake,) = it.journal.brakes()
    assert (brake.failures, brake.detail) == (5, "Vault said no")
    assert (brake.engaged_at, brake.retry_at) == (it.clock.now(), it.clock.now() + RETRY)


def test_one_user_that_fails_for_ever_brakes_nobody(it: Stand) -> None:
    it.fail(*["a"] * 20)
    assert it.braked() == set()


def test_a_success_in_between_starts_the_count_again(it: Stand) -> None:
    it.fail("a", "b", "c", "d")
    it.succeed()
    it.fail("e", "f", "g", "h")
    assert it.braked() == set()
    it.fail("i")
    assert it.braked() == {FIRST}


def test_a_success_elsewhere_does_not(it: Stand) -> None:
    it.fail("a", "b", "c", "d")
    it.succeed(account=SECOND_ACCOUNT)
    it.fail("e")
    assert it.braked() == {FIRST}


def test_failures_of_two_accounts_are_not_added_up(it: Stand) -> None:
    it.fail("a", "b", "c", "d")
    it.fail("a", "b", "c", "d", account=SECOND_ACCOUNT)
    assert it.braked() == set()


def test_one_braked_account_stops_no_other(it: Stand) -> None:
    it.fail(*"abcde")
    assert it.gates.gate(FIRST) == Gate(reason=Reason.BRAKED, until=it.clock.now() + RETRY)
    assert it.gates.gate(SECOND_ACCOUNT) is None
    assert it.opens(SECOND_ACCOUNT)


def test_two_braked_accounts_stop_the_fleet(it: Stand) -> None:
    it.fail(*"abcde")
    it.fail(*"abcde", account=SECOND_ACCOUNT)
    assert it.braked() == {FIRST, SECOND_ACCOUNT, None}
    assert it.gates.gate(THIRD) == Gate(reason=Reason.BRAKED, until=it.clock.now() + RETRY)


def test_a_brake_is_told(it: Stand, log_lines: LogLines) -> None:
    it.fail(*"abcde")
    it.fail(*"abcde", account=SECOND_ACCOUNT)
    told = [line["braked"] for line in log_lines() if line["event"] == "brake.engaged"]
    assert told == [FIRST, SECOND_ACCOUNT, "fleet"]


def test_a_process_that_starts_finds_the_brake_in_the_journal(it: Stand) -> None:
    it.fail(*"abcde")
    another = Gates(journal=it.journal, clock=it.clock, settings=FleetSettings())
    assert another.gate(FIRST) == Gate(reason=Reason.BRAKED, until=it.clock.now() + RETRY)


# --- the canary -------------------------------------------------------------------------------------------------------


def test_no_canary_goes_before_brake_retry_and_one_from_then_on(it: Stand) -> None:
    it.fail(*"abcde")
    it.clock.advance(RETRY - SECOND)
    assert not it.opens()
    with pytest.raises(PostponedError, match="failed in a row") as postponed:
        it.gates.before_open(DUE, None, FIRST)
    assert postponed.value.until == it.clock.now() + AT_LEAST
    it.clock.advance(SECOND)
    assert it.opens()


def test_only_one_canary_goes_at_a_time(it: Stand) -> None:
    it.fail(*"abcde")
    it.clock.advance(RETRY)
    assert it.opens()
    assert it.gates.gate(FIRST) is None
    with pytest.raises(PostponedError, match="failed in a row") as postponed:
        it.gates.before_open(DUE, None, FIRST)
    assert postponed.value.until == it.clock.now() + AT_LEAST


def test_a_canary_that_lives_releases_the_brake(it: Stand, log_lines: LogLines) -> None:
    it.fail(*"abcde")
    it.clock.advance(RETRY)
    assert it.opens()
    it.succeed()
    assert it.braked() == set()
    assert it.opens()
    assert it.opens()
    assert [line["by"] for line in log_lines() if line["event"] == "brake.released"] == ["canary"]
    it.fail("a", "b", "c", "d")
    assert it.braked() == set()


def test_a_canary_that_dies_engages_it_anew(it: Stand) -> None:
    it.fail(*"abcde")
    it.clock.advance(RETRY)
    assert it.opens()
    it.fail("f")
    assert it.gates.gate(FIRST) == Gate(reason=Reason.BRAKED, until=it.clock.now() + RETRY)
    it.clock.advance(RETRY)
    assert it.opens()


def test_a_canary_that_came_to_rest_makes_way_for_the_next(it: Stand) -> None:
    it.fail(*"abcde")
    it.clock.advance(RETRY)
    assert it.opens()
    it.gates.canary_over(FIRST)
    assert it.braked() == {FIRST}
    assert it.opens()


def test_a_canary_of_which_nothing_more_was_heard_makes_way_after_brake_retry(it: Stand) -> None:
    it.fail(*"abcde")
    it.clock.advance(RETRY)
    assert it.opens()
    it.clock.advance(RETRY - SECOND)
    assert not it.opens()
    it.clock.advance(SECOND)
    assert it.opens()


def test_the_canary_of_a_braked_fleet_releases_the_fleet_and_its_own_account(it: Stand) -> None:
    it.fail(*"abcde")
    it.fail(*"abcde", account=SECOND_ACCOUNT)
    it.clock.advance(RETRY)
    assert it.opens()
    assert not it.opens(SECOND_ACCOUNT)
    assert not it.opens(THIRD)
    it.succeed()
    assert it.braked() == {SECOND_ACCOUNT}
    assert it.opens(THIRD)


def test_an_account_that_the_fleets_canary_held_back_may_try_afterwards(it: Stand) -> None:
    it.fail(*"abcde")
    it.fail(*"abcde", account=SECOND_ACCOUNT)
    it.clock.advance(RETRY)
    assert it.opens()
    assert not it.opens(SECOND_ACCOUNT)
    it.succeed()
    assert it.opens(SECOND_ACCOUNT)


def test_a_person_releases_a_brake_without_waiting(it: Stand) -> None:
    it.fail(*"abcde")
    assert it.journal.release_brake(FIRST, actor="user:ann", at=it.clock.now())
    assert it.opens()


# --- what passes every brake ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RotationKind)
def test_only_an_emergency_and_a_rollback_pass_the_brake(it: Stand, kind: RotationKind) -> None:
    it.fail(*"abcde")
    step = OpenRotation(kind=kind, reason=Reason.ASKED)
    if kind in (RotationKind.EMERGENCY, RotationKind.ROLLBACK):
        it.gates.before_open(step, asked(), FIRST)
        return
    with pytest.raises(PostponedError, match="failed in a row"):
        it.gates.before_open(step, asked(), FIRST)


# --- the hourly limit -------------------------------------------------------------------------------------------------


def _open_one(it: Stand, name: str, kind: RotationKind = RotationKind.NORMAL) -> None:
    lease = it.journal.acquire(FIRST, actor="daemon")
    assert lease is not None
    lease.open_rotation(
        user(name, f"AIDA{name}"),
        kind=kind,
        reason=Reason.DUE,
        asked_by=None,
        old_key_id=None,
        target=None,
        at=it.clock.now(),
    )
    it.journal.release(lease.lease)


def test_the_hourly_limit_postpones_and_the_hour_slides(it: Stand) -> None:
    _open_one(it, "a")
    it.clock.advance(MINUTE)
    assert it.opens(SECOND_ACCOUNT)
    _open_one(it, "b")
    with pytest.raises(PostponedError, match="hourly limit") as postponed:
        it.gates.before_open(DUE, None, SECOND_ACCOUNT)
    assert (postponed.value.reason, postponed.value.until) == (Reason.RATE_LIMITED, it.clock.now() + AT_LEAST)
    it.clock.advance(HOUR - MINUTE + SECOND)
    it.gates.before_open(DUE, None, SECOND_ACCOUNT)


def test_whom_a_person_named_is_not_limited_by_the_hour(it: Stand) -> None:
    _open_one(it, "a")
    _open_one(it, "b")
    it.gates.before_open(DUE, asked(), FIRST)


# --- observe mode and freezes -----------------------------------------------------------------------------------------

YEAR_END = Freeze(first_day=date(2026, 1, 10), last_day=date(2026, 1, 12), reason="year end")


@pytest.mark.parametrize(
    ("now", "frozen"),
    [
        ("2026-01-09T23:59:59", False),
        ("2026-01-10T00:00:00", True),
        ("2026-01-12T23:59:59", True),
        ("2026-01-13T00:00:00", False),
    ],
)
def test_a_freeze_binds_from_its_first_day_to_the_end_of_its_last(now: str, *, frozen: bool) -> None:
    made = stand(FleetSettings(freezes=(YEAR_END,)))
    made.clock.jump(datetime.fromisoformat(now).replace(tzinfo=UTC) - made.clock.now())
    gate = Gate(reason=Reason.FROZEN, until=datetime(2026, 1, 13, tzinfo=UTC)) if frozen else None
    assert made.gates.gate(FIRST) == gate
    made.journal.close()


def test_observe_mode_binds_before_all_else_and_until_a_person_ends_it() -> None:
    made = stand(FleetSettings(mode=Mode.OBSERVE, freezes=(YEAR_END,)))
    made.fail(*"abcde")
    assert made.gates.gate(FIRST) == Gate(reason=Reason.OBSERVE_MODE, until=None)
    made.journal.close()


# --- on the world -----------------------------------------------------------------------------------------------------


def _fleet(users: int, **changes: object) -> tuple[Rig, list[str]]:
    rig = Rig(policy(**changes), settings=FleetSettings(max_parallel=1, max_rotations_per_hour=1000))
    names = [f"ci{number}" for number in range(users)]
    for name in names:
        rig.world.user(ACCOUNT, name, age=100 * DAY)
    return rig, names


def _braked(rig: Rig) -> bool:
    return bool(rig.journal.brakes())


def test_failures_before_createaccesskey_never_brake() -> None:
    rig, names = _fleet(8)
    rig.world.vault.denied.add("check_writable")
    worked = rig.work(*names)
    assert [each.error is not None for each in worked] == [True] * 8
    assert not _braked(rig)
    assert rig.world.counts["iam.create_access_key"] == 0


def test_users_whose_new_keys_cannot_be_published_brake_and_the_rest_is_not_begun() -> None:
    rig, names = _fleet(8, publish_timeout=timedelta(seconds=20))
    rig.world.fault("vault.publish", error=AccessDeniedError("no"), times=None)
    rig.work(*names)
    assert _braked(rig)
    assert rig.world.counts["iam.create_access_key"] == 5
    assert [rig.status(name).reason for name in names[5:]] == [Reason.BRAKED] * 3
    assert all(rig.world.consumer(ACCOUNT, name) for name in names)
    rig.world.check_promises()


def test_a_brake_stops_openings_and_nothing_else() -> None:
    rig, names = _fleet(7, publish_timeout=timedelta(seconds=20))
    assert rig.look("ci6").published
    (retiring, _) = rig.world.keys(ACCOUNT, "ci6")
    broken = rig.world.fault("vault.publish", error=AccessDeniedError("no"), times=None)
    rig.work(*names[:6])
    assert _braked(rig)
    rig.settle("ci6", until=lambda _worked: len(rig.world.keys(ACCOUNT, "ci6")) == 1)
    assert rig.world.key(retiring.id).deleted
    broken.remove()
    rig.world.check_promises()


def test_after_brake_retry_the_first_success_lets_the_others_go_on() -> None:
    rig, names = _fleet(7, publish_timeout=timedelta(seconds=20))
    broken = rig.world.fault("vault.publish", error=TemporaryError("sealed"), times=None)
    rig.work(*names)
    assert _braked(rig)
    broken.remove()
    rig.world.clock.advance(2 * HOUR)
    for _ in range(4):
        rig.work(*names)
        rig.world.clock.advance(2 * HOUR)
    assert not _braked(rig)
    assert all(rig.world.active_keys(ACCOUNT, name) == 2 for name in names)
    rig.world.check_promises()
