"""Whole lives of keys on the in-memory world."""

from datetime import timedelta

import pytest

from rekeyd.core.model import KeyStatus
from rekeyd.core.policy import Adopt
from rekeyd.core.reasons import Reason
from rekeyd.core.state import State
from tests.rig import ACCOUNT, DAY, Rig, asked, policy
from tests.world import lost
from tests.world.points import Crash, Phase


def test_a_due_key_is_rotated_and_the_old_one_retired() -> None:
    rig = Rig(policy())
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    (old,) = rig.world.keys(ACCOUNT, "ci")

    worked = rig.look("ci")
    assert worked.error is None
    assert worked.published
    new_id = rig.world.held_id(ACCOUNT, "ci")
    assert new_id != old.id
    assert rig.world.consumer(ACCOUNT, "ci")

    rig.settle(until=lambda w: w.outcome is not None and w.outcome.state == State.QUARANTINE)
    assert rig.world.key(old.id).status is KeyStatus.INACTIVE

    rig.settle()
    assert [key.id for key in rig.world.keys(ACCOUNT, "ci")] == [new_id]
    assert rig.status("ci").state == State.FRESH
    rig.world.check_promises()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_secret_that_keeps_one_version_is_rotated_over_a_crash(moment: Phase) -> None:
    rig = Rig(policy())
    rig.world.vault.state.max_versions = 1
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    rig.world.fault("vault.publish", when=moment, error=Crash("vault.publish"))
    rig.settle(crashes=True)
    assert [key.id for key in rig.world.keys(ACCOUNT, "ci")] == [rig.world.held_id(ACCOUNT, "ci")]
    rig.world.check_promises()


def test_an_unmanaged_user_is_adopted_only_when_asked() -> None:
    rig = Rig(policy())
    rig.world.user(ACCOUNT, "ci", age=100 * DAY, held=False)

    worked = rig.settle()
    assert worked.outcome is not None
    assert worked.outcome.rest.reason is Reason.UNMANAGED
    assert rig.world.held_id(ACCOUNT, "ci") is None

    request_id = rig.serve("ci", asked())
    assert rig.journal.request(request_id).answer == "published"
    assert rig.world.consumer(ACCOUNT, "ci")
    rig.settle()
    assert len(rig.world.keys(ACCOUNT, "ci")) == 1
    rig.world.check_promises()


@pytest.mark.parametrize("adopt", [Adopt.AT_ONCE, Adopt.WHEN_DUE])
def test_an_unmanaged_user_is_adopted_as_its_policy_says(adopt: Adopt) -> None:
    rig = Rig(policy(adopt=adopt))
    rig.world.user(ACCOUNT, "ci", age=100 * DAY, held=False)
    worked = rig.look("ci")
    assert worked.published
    rig.world.check_promises()


def test_a_stray_key_stops_everything_until_a_person_names_it() -> None:
    rig = Rig(policy())
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    stray = rig.world.operators.create_key(ACCOUNT, "ci")
    rig.world.clock.advance(timedelta(minutes=1))

    worked = rig.look("ci")
    assert worked.outcome is not None
    assert worked.outcome.rest.reason is Reason.STRAY_KEY
    assert stray.access_key_id in rig.status("ci").message
    assert "never used" in rig.status("ci").message

    rig.world.allow(stray.access_key_id)
    rig.serve("ci", asked(replace=stray.access_key_id))
    rig.settle(until=lambda w: w.outcome is not None and w.published)
    assert rig.world.key(stray.access_key_id).status is not KeyStatus.ACTIVE
    rig.world.check_promises()


def test_an_emergency_deactivates_the_old_key_as_soon_as_the_new_one_is_proven() -> None:
    rig = Rig(policy())
    rig.world.user(ACCOUNT, "ci", age=1 * DAY)
    (old,) = rig.world.keys(ACCOUNT, "ci")
    started = rig.world.clock.now()
    rig.serve("ci", asked(emergency=True))
    rig.settle(until=lambda w: w.outcome is not None and w.outcome.state == State.QUARANTINE)
    assert rig.world.key(old.id).status is KeyStatus.INACTIVE
    assert rig.world.clock.now() - started < timedelta(minutes=2)
    assert rig.world.consumer(ACCOUNT, "ci")
    rig.settle()
    assert len(rig.world.keys(ACCOUNT, "ci")) == 1
    rig.world.check_promises()


def test_an_emergency_in_mid_overlap_ends_the_other_keys_time_first() -> None:
    rig = Rig(policy())
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    (first,) = rig.world.keys(ACCOUNT, "ci")
    rig.look("ci")
    second = rig.world.held_id(ACCOUNT, "ci")
    rig.world.clock.advance(timedelta(hours=1))
    rig.world.waive_quarantine(first.id)
    rig.serve("ci", asked(emergency=True))
    before = (first.id, second)
    rig.settle(
        until=lambda w: (
            w.outcome is not None
            and w.outcome.rest.reason is Reason.IN_QUARANTINE
            and rig.world.held_id(ACCOUNT, "ci") not in before
        )
    )
    third = rig.world.held_id(ACCOUNT, "ci")
    assert third not in (first.id, second)
    assert second is not None
    assert rig.world.key(second).status is KeyStatus.INACTIVE
    assert first.id not in {key.id for key in rig.world.keys(ACCOUNT, "ci")}
    rig.world.check_promises()


@pytest.mark.parametrize("wait", [timedelta(hours=1), timedelta(days=8)], ids=["in overlap", "in quarantine"])
def test_a_rollback_serves_the_old_pair_again(wait: timedelta) -> None:
    rig = Rig(policy())
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    (old,) = rig.world.keys(ACCOUNT, "ci")
    rig.look("ci")
    new = rig.world.held_id(ACCOUNT, "ci")
    rig.settle(span=wait)
    rig.world.clock.advance(timedelta(minutes=1))

    request_id = rig.serve("ci", asked(rollback=True))
    for _ in range(5):
        rig.world.clock.advance(timedelta(seconds=20))
        rig.serve_open()
    assert rig.journal.request(request_id).answer == "published"
    assert rig.world.held_id(ACCOUNT, "ci") == old.id
    assert rig.world.consumer(ACCOUNT, "ci")
    rig.settle()
    assert [key.id for key in rig.world.keys(ACCOUNT, "ci")] == [old.id]
    assert new is not None
    assert rig.status("ci").reason is Reason.RESTORED_BY_ROLLBACK
    rig.world.check_promises()


def test_observing_changes_nothing_even_in_mid_rotation() -> None:
    rig = Rig(policy())
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    rig.look("ci")
    before = (rig.world.keys(ACCOUNT, "ci"), rig.world.held_id(ACCOUNT, "ci"))
    rig.observing = True
    for _ in range(30):
        rig.world.clock.advance(DAY)
        worked = rig.look("ci")
        assert worked.error is None
    assert (rig.world.keys(ACCOUNT, "ci"), rig.world.held_id(ACCOUNT, "ci")) == before
    assert rig.status("ci").reason is Reason.OBSERVE_MODE


def test_an_old_key_that_somebody_deleted_ends_its_rotation() -> None:
    rig = Rig(policy())
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    (old,) = rig.world.keys(ACCOUNT, "ci")
    rig.look("ci")
    rig.world.clock.advance(timedelta(hours=1))
    rig.world.operators.delete_key(old.id)
    rig.world.clock.advance(timedelta(hours=1))
    rig.look("ci")
    assert rig.status("ci").state == State.FRESH
    assert rig.journal.open_users(ACCOUNT) == {}
    rig.world.check_promises()


def test_a_recreated_user_is_refused_until_somebody_asks() -> None:
    rig = Rig(policy(adopt=Adopt.AT_ONCE))
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    rig.settle()
    rig.world.operators.recreate_user(ACCOUNT, "ci")
    rig.world.manage(rig.world.state(ACCOUNT, "ci").principal)
    rig.world.clock.advance(timedelta(hours=1))
    rig.look("ci")
    assert rig.status("ci").reason is Reason.USER_RECREATED
    request_id = rig.serve("ci", asked())
    for _ in range(5):
        rig.world.clock.advance(timedelta(seconds=20))
        rig.serve_open()
    assert rig.journal.request(request_id).answer == "published"
    assert rig.world.consumer(ACCOUNT, "ci")
    rig.settle()
    assert rig.status("ci").state == State.FRESH


def test_without_a_writable_mark_nothing_is_retired() -> None:
    rig = Rig(policy())
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    (old,) = rig.world.keys(ACCOUNT, "ci")
    rig.look("ci")
    with rig.world.fault("vault.read_mark", error=lost("the mark"), times=None):
        rig.world.clock.advance(10 * DAY)
        rig.look("ci")
        assert rig.status("ci").reason is Reason.MARK_NOT_WRITABLE
        assert rig.world.key(old.id).status is KeyStatus.ACTIVE
    rig.settle()
    assert rig.status("ci").state == State.FRESH
    rig.world.check_promises()
