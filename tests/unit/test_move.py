"""A place that changed on purpose: the pair is copied and proven; only then the journal calls the new place its own."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from rekeyd.adapters.journal_schema import place_text, publication
from rekeyd.core.findings import FindingReason
from rekeyd.core.model import KeyStatus, Place, Principal, VaultAbsent, VaultHeld
from rekeyd.core.reasons import Reason
from rekeyd.errors import OutcomeUnknownError, StateError
from rekeyd.fleet.left import left_findings
from rekeyd.fleet.places import Places
from rekeyd.reconcile.move import Moved, Mover
from rekeyd.reconcile.rules import Rules
from tests.rig import ACCOUNT, DAY, SETTLE, Rig, asked, policy
from tests.world import REGION, Crash, default_place
from tests.world.points import lost

FAST = policy(overlap=7 * DAY, quarantine=7 * DAY)


def elsewhere(principal: Principal) -> Place:
    return replace(default_place(principal), mount="kv", path=f"iam/{principal.user_name}")


def other_fields(principal: Principal) -> Place:
    return replace(default_place(principal), id_field="AWS_ACCESS_KEY_ID", secret_field="AWS_SECRET_ACCESS_KEY")


class Moving:
    """A user whose pair was published by a rotation, and a configuration that names another place since."""

    def __init__(self, place_of: Callable[[Principal], Place] = elsewhere) -> None:
        self.rig = Rig(FAST)
        self.world = self.rig.world
        self.principal = self.world.user(ACCOUNT, "ci", age=120 * DAY)
        self.rig.settle(until=lambda worked: worked.published)
        self.world.clock.advance(timedelta(minutes=1))
        self.old = default_place(self.principal)
        self.new = place_of(self.principal)
        self.place_of = place_of
        self.world.place_of = place_of
        self.rig.boot()

    @property
    def held_id(self) -> str:
        held = self.world.vault.current(self.old)
        assert isinstance(held, VaultHeld)
        return held.access_key_id

    def move(self, *, collides: bool = False, unlisted: bool = False) -> Moved:
        rules = Rules(
            policies=self.rig.policies,
            place_of=self.place_of,
            windows_of=lambda _policy, _now: None,
            settle=SETTLE,
            region=REGION,
            extra_of=lambda _: {"team": "payments"},
        )
        mover = Mover(
            cloud=self.world.cloud,
            vault=self.world.vault,
            clock=self.world.clock,
            rules=rules,
            collides=lambda _principal, _place: collides,
            unlisted=lambda _principal: unlisted,
        )
        with self.rig.held() as work:
            return mover.move(work.lease, self.principal)

    def reason(self) -> Reason:
        outcome = self.rig.look("ci").outcome
        assert outcome is not None
        return outcome.rest.reason

    def left(self) -> list[str]:
        journal, clock = self.rig.journal, self.world.clock
        return [f.reason for f in left_findings(self.world.vault, journal, clock, ACCOUNT, actor="daemon")]


def test_a_changed_place_is_refused_until_the_pair_is_moved() -> None:
    moving = Moving()
    assert moving.reason() is Reason.VAULT_MOVED
    moved = moving.move()
    assert (moved.changed, moved.before, moved.after, moved.version) == (True, moving.old, moving.new, 1)
    assert moving.reason() is Reason.IN_OVERLAP


def test_the_new_place_gets_the_pair_and_the_static_fields_and_the_old_one_stays() -> None:
    moving = Moving()
    key_id = moving.held_id
    moving.move()
    served = moving.world.operators.served_fields(moving.new)
    assert served == {
        "access_key_id": key_id,
        "secret_access_key": moving.world.key(key_id).secret,
        "team": "payments",
    }
    assert moving.held_id == key_id


def test_clocks_go_on_over_a_move() -> None:
    moving = Moving()
    old_key = moving.world.keys(ACCOUNT, "ci")[0]
    began = moving.world.clock.now()
    moving.world.clock.advance(6 * DAY)
    moving.move()
    moving.world.manage(moving.principal, place=moving.new)
    moving.rig.settle(until=lambda _: moving.world.key(old_key.id).status is not KeyStatus.ACTIVE)
    assert moving.world.clock.now() - began < 8 * DAY, "the overlap did not start again"
    moving.rig.settle()
    assert [key.id for key in moving.world.keys(ACCOUNT, "ci")] == [moving.held_id]
    moving.world.check_promises()


def test_a_rotation_after_the_move_goes_to_the_new_place() -> None:
    moving = Moving()
    before = moving.held_id
    moving.move()
    moving.world.manage(moving.principal, place=moving.new)
    moving.rig.settle()
    moving.world.clock.advance(90 * DAY)
    moving.rig.settle(until=lambda worked: worked.published)
    held = moving.world.vault.current(moving.new)
    assert isinstance(held, VaultHeld)
    assert held.access_key_id != before
    assert moving.held_id == before, "nobody writes to the old place"


def test_the_old_place_is_reported_until_it_is_emptied() -> None:
    moving = Moving()
    moving.move()
    assert moving.left() == [FindingReason.LEFT_PLACE_NOT_EMPTIED]
    assert moving.left() == [FindingReason.LEFT_PLACE_NOT_EMPTIED]
    moving.world.vault.seal()
    assert moving.left() == [FindingReason.LEFT_PLACE_NOT_EMPTIED], "unknown is not empty"
    moving.world.vault.unseal()
    moving.world.operators.delete_metadata(moving.old)
    assert moving.left() == []
    assert moving.rig.journal.left_places(ACCOUNT) == ()
    assert moving.rig.journal.history()[-1].event == "left_place.emptied"


def test_a_place_at_another_address_is_reported_although_nobody_can_look_there() -> None:
    moving = Moving(lambda principal: replace(default_place(principal), address="https://new.example:8200"))
    copied = moving.world.operators.served_fields(moving.old)
    moving.world.operators.write_fields(moving.new, copied)
    assert moving.move().changed is True
    (left,) = moving.rig.journal.left_places(ACCOUNT)
    assert left.place == moving.old
    moving.world.vault.denied.add("current")  # as the adapter refuses another address than its own
    assert moving.left() == [FindingReason.LEFT_PLACE_NOT_EMPTIED]
    moving.rig.journal.left_place_emptied(left, actor="user:test", at=moving.world.clock.now())
    assert moving.left() == []


def test_a_journal_that_has_another_spelling_of_the_address_knows_the_place() -> None:
    moving = Moving(default_place)
    store = moving.rig.store._store
    with store.write() as conn:
        odd = place_text(replace(moving.old, address="https://VAULT.example:8200/"))
        conn.execute(sa.update(publication).values(place=odd))
    assert moving.reason() is Reason.IN_OVERLAP
    assert moving.move().changed is False


def test_other_names_of_the_fields_are_a_move_within_one_secret() -> None:
    moving = Moving(other_fields)
    key_id = moving.held_id
    assert moving.reason() is Reason.VAULT_MOVED
    assert moving.move().version == 3
    served = moving.world.operators.served_fields(moving.new)
    assert (served["AWS_ACCESS_KEY_ID"], served["access_key_id"]) == (key_id, key_id)
    assert moving.reason() is Reason.IN_OVERLAP
    assert moving.left() == [FindingReason.LEFT_PLACE_NOT_EMPTIED]


def test_a_place_set_back_needs_no_move() -> None:
    moving = Moving(default_place)
    assert moving.move().changed is False
    assert moving.rig.journal.left_places(ACCOUNT) == ()


def test_moving_there_and_back_leaves_only_the_place_between() -> None:
    moving = Moving()
    moving.move()
    moving.place_of = default_place
    moved = moving.move()
    assert (moved.changed, moved.after) == (True, moving.old)
    assert [left.place for left in moving.rig.journal.left_places(ACCOUNT)] == [moving.new]


# --- refusals ---


def test_a_place_that_holds_another_key_is_not_written_to() -> None:
    moving = Moving()
    moving.world.operators.write_fields(moving.new, {"access_key_id": "AKIASTRANGER00000001", "secret_access_key": "x"})
    with pytest.raises(StateError, match="holds another key, AKIASTRANGER00000001"):
        moving.move()
    assert moving.reason() is Reason.VAULT_MOVED


def test_a_place_with_somebody_elses_fields_is_not_written_to() -> None:
    moving = Moving()
    moving.world.operators.write_fields(moving.new, {"password": "x"})
    with pytest.raises(StateError, match="holds somebody else's fields"):
        moving.move()


def test_a_place_that_another_user_has_is_not_written_to() -> None:
    moving = Moving()
    with pytest.raises(StateError, match="two users share one path"):
        moving.move(collides=True)
    with pytest.raises(StateError, match="could not be listed"):
        moving.move(unlisted=True)
    assert moving.world.vault.current(moving.new) == VaultAbsent(0)


def test_a_pair_that_aws_refuses_is_not_carried_on() -> None:
    moving = Moving()
    moving.world.operators.deactivate(moving.held_id)
    moving.world.clock.advance(timedelta(minutes=5))
    with pytest.raises(StateError, match="AWS does not accept the pair"):
        moving.move()
    assert moving.world.vault.current(moving.new) == VaultAbsent(0)


def test_what_was_never_published_is_not_moved() -> None:
    moving = Moving()
    moving.principal = moving.world.user(ACCOUNT, "new", age=DAY)
    with pytest.raises(StateError, match="has never published a pair of"):
        moving.move()


def test_an_unfinished_rotation_is_finished_where_it_began() -> None:
    moving = Moving(default_place)
    moving.rig.settle()
    moving.world.clock.advance(90 * DAY)
    with moving.world.points.fault("vault.publish", error=lost("publish"), when="after"):
        moving.rig.look("ci")
    moving.place_of = elsewhere
    with pytest.raises(StateError, match="is unfinished"):
        moving.move()


def test_a_user_of_no_policy_is_not_moved() -> None:
    moving = Moving()
    moving.rig.policies[:] = []
    with pytest.raises(StateError, match="no policy manages"):
        moving.move()


# --- interrupted ---


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_move_killed_anywhere_is_made_again(when: str) -> None:
    moving = Moving()
    calls = _calls_of_a_move()
    assert "vault.publish" in calls
    for nth in range(1, len(calls) + 1):
        moving = Moving()
        seen = 0

        def kill(_name: str, phase: str, _args: object, *, at: int = nth) -> None:
            nonlocal seen
            seen += phase == when
            if phase == when and seen == at:
                raise Crash

        stop = moving.world.points.on_call(kill)
        with pytest.raises(Crash, match=r".*"):
            moving.move()
        stop()
        moving.rig.restart()
        moving.world.check_promises()
        moving.move()
        assert moving.reason() is Reason.IN_OVERLAP, calls[nth - 1]
        assert moving.world.vault.current(moving.new).version == 1  # type: ignore[union-attr]


def test_a_write_whose_answer_was_lost_makes_one_version() -> None:
    moving = Moving()
    with (
        moving.world.points.fault("vault.publish", error=lost("publish"), when="after"),
        pytest.raises(OutcomeUnknownError, match="lost"),
    ):
        moving.move()
    assert moving.reason() is Reason.VAULT_MOVED
    assert moving.move().version == 1


def _calls_of_a_move() -> list[str]:
    moving = Moving()
    names: list[str] = []
    moving.world.points.on_call(lambda name, phase, _: names.append(name) if phase == "before" else None)
    moving.move()
    return names


# --- collisions over accounts ---


def test_a_place_of_an_account_that_was_not_scanned_yet_is_taken_all_the_same() -> None:
    moving = Moving()
    shared = replace(moving.old, path=moving.old.path.upper())
    rules = replace(moving.rig.reconciler.observer.rules, place_of=lambda _: shared)
    places = Places(rules, list_users=lambda _: (), watched=tuple)
    stranger = replace(moving.principal, account_id="444455556666", user_id="AIDAOTHER")  # type: ignore[arg-type]
    assert not places.collides(stranger, shared)
    places.learn_published(moving.rig.journal.publications())
    assert places.collides(stranger, shared)
    assert not places.collides(moving.principal, moving.old)
    reborn = replace(moving.principal, user_id="AIDAREBORN")  # type: ignore[arg-type]
    assert not places.collides(reborn, moving.old), "a user made anew is told apart by other means"


# --- a pair that rekeyd only saw, of a user that was renamed ----------------------------------------------------------


def test_a_pair_that_was_only_seen_under_the_old_name_is_moved_to_the_new_one() -> None:
    rig = Rig(FAST)
    rig.world.user(ACCOUNT, "ci", age=10 * DAY)
    (key,) = rig.world.keys(ACCOUNT, "ci")
    old = rig.world.place(ACCOUNT, "ci")
    rig.look("ci")
    rig.world.operators.rename_user(ACCOUNT, "ci", "build")
    renamed = rig.world.state(ACCOUNT, "build").principal
    mover = Mover(
        cloud=rig.world.cloud,
        vault=rig.world.vault,
        clock=rig.world.clock,
        rules=rig.reconciler.observer.rules,
        collides=lambda _principal, _place: False,
    )
    with rig.held() as work:
        moved = mover.move(work.lease, renamed)
    assert (moved.key_id, moved.before, moved.after) == (key.id, old, default_place(renamed))
    assert moved.changed
    served = rig.world.vault.current(default_place(renamed))
    assert isinstance(served, VaultHeld)
    assert served.access_key_id == key.id
    (left,) = rig.journal.left_places(ACCOUNT)
    assert left.place == old
    # From now on it is as if rekeyd had published it there: asked for, it is rotated.
    rig.world.clock.advance(timedelta(minutes=1))
    rig.serve("build", asked(at=rig.world.clock.now()))
    assert rig.last is not None
    assert rig.last.published


def test_a_pair_of_a_renamed_user_that_is_not_there_any_more_cannot_be_moved() -> None:
    rig = Rig(FAST)
    rig.world.user(ACCOUNT, "ci", age=10 * DAY)
    old = rig.world.place(ACCOUNT, "ci")
    rig.look("ci")
    rig.world.operators.rename_user(ACCOUNT, "ci", "build")
    rig.world.operators.delete_metadata(old)
    mover = Mover(
        cloud=rig.world.cloud,
        vault=rig.world.vault,
        clock=rig.world.clock,
        rules=rig.reconciler.observer.rules,
        collides=lambda _principal, _place: False,
    )
    with rig.held() as work, pytest.raises(StateError, match="never published a pair"):
        mover.move(work.lease, rig.world.state(ACCOUNT, "build").principal)
