"""The in-memory world sees when a promise is broken, and whose hand did it."""

from datetime import timedelta
from time import process_time

import pytest

from rekeyd.core.model import AccessKeyId, AccountId, KeyStatus, Principal, Proof
from rekeyd.core.policy import Attribution, Orphans, Policy, SpareKey
from rekeyd.errors import LimitExceededError, OutcomeUnknownError, TemporaryError
from rekeyd.ports import Pair
from tests.world import ACCOUNT, World, lost

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def free() -> None:
    """A guard that lets everything pass."""


@pytest.fixture
def world() -> World:
    world = World(seed=11)
    world.follow(lambda _principal: Policy(name="default"))
    return world


@pytest.fixture
def user(world: World) -> Principal:
    return world.user(ACCOUNT, "ci", age=100 * DAY)


def create(world: World, operation_id: str = "op-1") -> Pair:
    return world.cloud.iam(AccountId(ACCOUNT)).create_access_key("ci", operation_id=operation_id, guard=free).pair


def publish(world: World, pair: Pair) -> None:
    place = world.place(ACCOUNT, "ci")
    seen = world.vault.current(place)
    assert hasattr(seen, "version")
    world.vault.publish(place, pair, cas=seen.version, extra={}, guard=free, give_up_at=world.clock.now() + MINUTE)


def update(world: World, key_id: str, status: KeyStatus) -> None:
    world.cloud.iam(AccountId(ACCOUNT)).update_access_key("ci", AccessKeyId(key_id), status, guard=free)


def delete(world: World, key_id: str) -> None:
    world.cloud.iam(AccountId(ACCOUNT)).delete_access_key("ci", AccessKeyId(key_id), guard=free)


def prove_held(world: World) -> None:
    held_id = world.held_id(ACCOUNT, "ci")
    assert held_id is not None
    assert world.sts.prove(world.pair(held_id), world.state(ACCOUNT, "ci").principal) is Proof.ACCEPTED


def old_and_new(world: World) -> tuple[AccessKeyId, AccessKeyId]:
    """A rotation as it should be, up to the publication."""
    old_id = world.keys(ACCOUNT, "ci")[0].id
    pair = create(world)
    world.clock.advance(MINUTE)
    publish(world, pair)
    return old_id, pair.access_key_id


def test_a_rotation_as_it_should_be_breaks_nothing(world: World, user: Principal) -> None:
    old_id, new_id = old_and_new(world)
    assert world.held_id(ACCOUNT, "ci") == new_id
    world.clock.advance(7 * DAY)
    update(world, old_id, KeyStatus.INACTIVE)
    world.clock.advance(7 * DAY)
    prove_held(world)
    delete(world, old_id)
    world.vault.destroy(world.place(ACCOUNT, "ci"), [1])
    world.check_promises()
    assert world.consumer(ACCOUNT, "ci")
    assert [key.id for key in world.keys(ACCOUNT, "ci")] == [new_id]


# --- P1 --------------------------------------------------------------------------------------------------------------


def test_p1_a_pair_published_before_it_is_accepted_is_seen(world: World, user: Principal) -> None:
    publish(world, create(world))
    assert not world.consumer(ACCOUNT, "ci")
    with pytest.raises(AssertionError, match=r"P1 .*which is not accepted in eu-central-1"):
        world.check_promises()
    world.clock.advance(MINUTE)
    with pytest.raises(AssertionError, match="P1"):
        world.check_promises()


def test_p1_asks_for_every_region_of_the_place(world: World, user: Principal) -> None:
    world.lags.region_extra["ap-east-1"] = DAY
    world.manage(user, regions=("eu-central-1", "ap-east-1"))
    old_and_new(world)
    with pytest.raises(AssertionError, match=r"P1 .*not accepted in ap-east-1$"):
        world.check_promises()


def test_p1_halves_of_two_pairs_are_seen(world: World, user: Principal) -> None:
    pair = create(world)
    world.clock.advance(MINUTE)
    old = world.pair(world.keys(ACCOUNT, "ci")[0].id)
    publish(world, Pair(access_key_id=pair.access_key_id, secret_access_key=old.secret_access_key))
    with pytest.raises(AssertionError, match=r"P1 .*with the secret of another key"):
        world.check_promises()


def test_p1_another_users_key_is_seen(world: World, user: Principal) -> None:
    world.user(ACCOUNT, "other")
    publish(world, world.pair(world.keys(ACCOUNT, "other")[0].id))
    with pytest.raises(AssertionError, match=r"P1 111122223333/ci .*not a key of this user"):
        world.check_promises()


def test_p1_a_late_write_that_names_a_deleted_key_is_seen(world: World, user: Principal) -> None:
    pair = create(world)
    world.clock.advance(MINUTE)
    world.late("vault.publish", delay=MINUTE)
    with pytest.raises(OutcomeUnknownError, match="the answer was lost"):
        publish(world, pair)
    delete(world, pair.access_key_id)
    world.check_promises()
    world.clock.advance(MINUTE)
    with pytest.raises(AssertionError, match=r"P1 .*which was deleted"):
        world.check_promises()


def test_p1_destroying_the_served_version_is_seen(world: World, user: Principal) -> None:
    world.vault.destroy(world.place(ACCOUNT, "ci"), [1])
    with pytest.raises(AssertionError, match=r"P1 .*served version 1 was destroyed"):
        world.check_promises()


@pytest.mark.parametrize("verb", ["deactivate", "delete_key"])
def test_p1_is_excused_where_an_operator_killed_the_held_key(world: World, user: Principal, verb: str) -> None:
    getattr(world.operators, verb)(world.keys(ACCOUNT, "ci")[0].id)
    world.clock.advance(MINUTE)
    assert not world.consumer(ACCOUNT, "ci")
    world.check_promises()


def test_p1_is_excused_where_an_operator_wrote_the_pair_also_after_a_burn(world: World, user: Principal) -> None:
    place = world.place(ACCOUNT, "ci")
    world.operators.write_fields(place, {"access_key_id": "AKIAWRONG", "secret_access_key": "world-wrong-secret"})
    world.vault.burn(place, cas=2, guard=free)
    world.check_promises()


def test_p1_holds_again_after_rekeyd_published(world: World, user: Principal) -> None:
    place = world.place(ACCOUNT, "ci")
    world.operators.write_fields(place, {"access_key_id": "AKIAWRONG", "secret_access_key": "world-wrong-secret"})
    publish(world, create(world))
    with pytest.raises(AssertionError, match="P1"):
        world.check_promises()


def test_p1_is_not_excused_by_an_edit_of_another_field(world: World, user: Principal) -> None:
    publish(world, create(world))
    world.violations.clear()
    world.operators.edit_field(world.place(ACCOUNT, "ci"), "owner", "team-a")
    with pytest.raises(AssertionError, match="P1"):
        world.check_promises()


# --- P2 --------------------------------------------------------------------------------------------------------------


def test_p2_deactivating_or_deleting_the_held_key_is_seen(world: World, user: Principal) -> None:
    held_id = world.keys(ACCOUNT, "ci")[0].id
    update(world, held_id, KeyStatus.INACTIVE)
    delete(world, held_id)
    assert [text.split()[0] for text in world.violations] == ["P2", "P2", "P3", "P3"]
    with pytest.raises(AssertionError, match=r"P2 .*was deactivated while Vault served it at aws/111122223333/ci"):
        world.check_promises()


def test_p2_is_seen_at_any_place_and_in_any_field(world: World, user: Principal) -> None:
    old_id, _ = old_and_new(world)
    elsewhere = world.place_of(world.user(ACCOUNT, "other", age=None))
    world.operators.write_fields(elsewhere, {"copied": old_id})
    world.vault.current(elsewhere)
    update(world, old_id, KeyStatus.INACTIVE)
    assert len(world.violations) == 1
    assert "P2" in world.violations[0]


def test_p2_is_excused_when_operators_moved_vault_after_rekeyd_looked(world: World, user: Principal) -> None:
    old_id, _ = old_and_new(world)
    place = world.place(ACCOUNT, "ci")
    world.vault.current(place)
    world.operators.restore(place, 1)
    update(world, old_id, KeyStatus.INACTIVE)
    assert world.violations == []
    update(world, old_id, KeyStatus.ACTIVE)
    world.vault.current(place)
    update(world, old_id, KeyStatus.INACTIVE)
    assert len(world.violations) == 1


# --- P3 --------------------------------------------------------------------------------------------------------------


def test_p3_deleting_an_active_key_is_seen(world: World, user: Principal) -> None:
    old_id, _ = old_and_new(world)
    delete(world, old_id)
    with pytest.raises(AssertionError, match=r"P3 .*deleted while Active"):
        world.check_promises()


@pytest.mark.parametrize(("seconds", "seen"), [(11, False), (12, True)])
def test_p3_a_reactivation_is_held_against_rekeyd_only_once_lists_must_show_it(
    world: World, user: Principal, seconds: int, seen: bool
) -> None:
    world.lags.listing = timedelta(seconds=12)
    old_id, _ = old_and_new(world)
    update(world, old_id, KeyStatus.INACTIVE)
    world.clock.advance(8 * DAY)
    world.operators.reactivate(old_id)
    world.clock.advance(timedelta(seconds=seconds))
    delete(world, old_id)
    assert any("deleted while Active" in text for text in world.violations) is seen


def test_p3_deleting_before_the_quarantine_is_over_is_seen(world: World, user: Principal) -> None:
    old_id, _ = old_and_new(world)
    update(world, old_id, KeyStatus.INACTIVE)
    world.clock.advance(7 * DAY - MINUTE)
    prove_held(world)
    delete(world, old_id)
    with pytest.raises(AssertionError, match=r"P3 .*was deleted 6 days, 23:59:00 after its deactivation"):
        world.check_promises()


def test_p3_a_persons_waiver_ends_the_quarantine(world: World, user: Principal) -> None:
    old_id, _ = old_and_new(world)
    update(world, old_id, KeyStatus.INACTIVE)
    prove_held(world)
    world.waive_quarantine(old_id)
    delete(world, old_id)
    world.check_promises()


def test_p3_the_quarantine_of_somebody_elses_deactivation_runs_from_our_first_sight(
    world: World, user: Principal
) -> None:
    old_id, _ = old_and_new(world)
    world.operators.deactivate(old_id)
    world.clock.advance(30 * DAY)
    prove_held(world)
    assert world.key(old_id).seen_inactive_at is None
    world.cloud.iam(user.account_id).list_access_keys("ci")
    assert world.key(old_id).seen_inactive_at == world.clock.now()
    delete(world, old_id)
    with pytest.raises(AssertionError, match=r"P3 .*was deleted 0:00:00 after"):
        world.check_promises()


def test_p3_a_reactivation_starts_the_quarantine_again(world: World, user: Principal) -> None:
    old_id, _ = old_and_new(world)
    update(world, old_id, KeyStatus.INACTIVE)
    world.operators.reactivate(old_id)
    world.operators.deactivate(old_id)
    world.clock.advance(30 * DAY)
    prove_held(world)
    delete(world, old_id)
    with pytest.raises(AssertionError, match=r"P3 .*never shown it Inactive"):
        world.check_promises()


def test_p3_a_deletion_without_a_fresh_proof_is_seen(world: World, user: Principal) -> None:
    old_id, _ = old_and_new(world)
    update(world, old_id, KeyStatus.INACTIVE)
    prove_held(world)
    world.clock.advance(8 * DAY)
    delete(world, old_id)
    with pytest.raises(AssertionError, match=r"P3 .*without a fresh proof"):
        world.check_promises()


def test_p3_our_own_key_that_was_never_in_vault_may_be_deleted_at_once(world: World, user: Principal) -> None:
    delete(world, create(world).access_key_id)
    world.check_promises()


# --- P5 and the rest -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [KeyStatus.INACTIVE, KeyStatus.ACTIVE])
def test_p5_a_change_of_a_strangers_key_is_seen(world: World, user: Principal, status: KeyStatus) -> None:
    stray = world.operators.create_key(ACCOUNT, "ci").access_key_id
    update(world, stray, status)
    with pytest.raises(AssertionError, match=r"P5 .*made by another hand"):
        world.check_promises()


def test_p5_a_person_may_name_the_key(world: World, user: Principal) -> None:
    stray = world.operators.create_key(ACCOUNT, "ci").access_key_id
    world.allow(stray)
    update(world, stray, KeyStatus.INACTIVE)
    world.check_promises()


def test_p5_the_only_key_of_an_adopted_user_is_the_one_that_is_replaced(world: World) -> None:
    world.user(ACCOUNT, "ci", age=100 * DAY, held=False)
    old_id, _ = old_and_new(world)
    update(world, old_id, KeyStatus.INACTIVE)
    world.check_promises()


@pytest.mark.parametrize(
    ("policy", "broken"),
    [
        (Policy(name="p"), 1),
        (Policy(name="p", spare_key=SpareKey.RETIRE_UNUSED), 0),
        (Policy(name="p", orphans=Orphans(attribution=Attribution.WINDOW)), 0),
    ],
)
def test_p5_knows_what_the_policy_allows(world: World, policy: Policy, broken: int) -> None:
    world.follow(lambda _principal: policy)
    world.user(ACCOUNT, "ci", held=False)
    spare = world.operators.create_key(ACCOUNT, "ci").access_key_id
    update(world, spare, KeyStatus.INACTIVE)
    assert len(world.violations) == broken


def test_a_create_is_sent_once_unless_aws_clearly_refused_it(world: World, user: Principal) -> None:
    world.fault("iam.create_access_key", error=TemporaryError("throttled"))
    with pytest.raises(TemporaryError, match="throttled"):
        create(world)
    create(world)
    assert world.violations == []
    with pytest.raises(LimitExceededError, match="exceed quota"):
        create(world)
    with pytest.raises(AssertionError, match=r"once ci: CreateAccessKey of operation op-1 sent again \(made\)"):
        world.check_promises()


def test_a_create_whose_answer_was_lost_is_not_sent_again(world: World, user: Principal) -> None:
    world.fault("iam.create_access_key", error=lost("create"))
    with pytest.raises(OutcomeUnknownError, match="the answer was lost"):
        create(world)
    create(world)
    with pytest.raises(AssertionError, match=r"sent again \(outcome unknown\)"):
        world.check_promises()


def test_operators_break_no_promise(world: World, user: Principal) -> None:
    held_id = world.keys(ACCOUNT, "ci")[0].id
    world.operators.create_key(ACCOUNT, "ci")
    world.operators.deactivate(held_id)
    world.operators.delete_key(held_id)
    world.operators.rename_user(ACCOUNT, "ci", "ci2")
    world.operators.delete_user(ACCOUNT, "ci2")
    world.check_promises()


def test_a_slow_consumer_keeps_the_old_pair_until_it_refreshes(world: World, user: Principal) -> None:
    consumer = world.slow_consumer(ACCOUNT, "ci")
    old_id, new_id = old_and_new(world)
    assert consumer.access_key_id == old_id
    assert consumer.call()
    update(world, old_id, KeyStatus.INACTIVE)
    world.clock.advance(MINUTE)
    assert not consumer.call()
    assert consumer.refresh()
    assert consumer.access_key_id == new_id
    assert consumer.call()
    world.vault.seal()
    assert not consumer.refresh()
    assert consumer.call()
    assert not world.consumer(ACCOUNT, "ci")


def test_a_hundred_thousand_looks_take_seconds() -> None:
    world = World(keep_calls=False)
    names = [f"user-{number}" for number in range(500)]
    for name in names:
        world.user(ACCOUNT, name)
    iam = world.cloud.iam(AccountId(ACCOUNT))
    places = [world.place(ACCOUNT, name) for name in names]
    begun = process_time()
    for _ in range(100):
        for name, place in zip(names, places, strict=True):
            iam.list_access_keys(name)
            world.vault.current(place)
        world.check_promises()
        world.clock.advance(DAY)
    assert process_time() - begun < 20
