"""The in-memory Vault keeps the rules of KV version 2."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from rekeyd.core.model import (
    AccessKeyId,
    Place,
    PublishNote,
    RotationId,
    UserId,
    VaultAbsent,
    VaultDeleted,
    VaultDestroyed,
    VaultHeld,
    VaultUnreadable,
    VaultWithoutPair,
)
from rekeyd.core.secret import Secret
from rekeyd.errors import (
    AccessDeniedError,
    ConflictError,
    LeaseLostError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionError,
    RefusedError,
    StoppingError,
    TemporaryError,
)
from rekeyd.ports import Mark, Pair
from tests.world import START, Crash, World, lost

MINUTE = timedelta(minutes=1)
PLACE = Place(
    address="https://vault.example:8200",
    namespace="",
    mount="secret",
    path="aws/ci",
    id_field="access_key_id",
    secret_field="secret_access_key",
)
ONE = Pair(access_key_id=AccessKeyId("AKIAONE"), secret_access_key=Secret("world-vault-secret-of-one"))
TWO = Pair(access_key_id=AccessKeyId("AKIATWO"), secret_access_key=Secret("world-vault-secret-of-two"))


def free() -> None:
    """A guard that lets everything pass."""


def lease_lost() -> None:
    raise LeaseLostError("the lease is lost")


@pytest.fixture
def world() -> World:
    return World(seed=3)


def publish(world: World, pair: Pair = ONE, *, cas: int = 0, guard: Callable[[], None] = free) -> tuple[int, datetime]:
    until = world.clock.now() + 10 * MINUTE
    return world.vault.publish(PLACE, pair, cas=cas, extra={"made_by": "rekeyd"}, guard=guard, give_up_at=until)


def held(version: int, key_id: str, note: PublishNote | None = None, at: datetime = START) -> VaultHeld:
    return VaultHeld(version=version, created_at=at, access_key_id=AccessKeyId(key_id), note=note)


def note(version: int, key_id: str = "AKIAONE") -> PublishNote:
    return PublishNote(
        version=version,
        user_id=UserId("AIDAX"),
        access_key_id=AccessKeyId(key_id),
        old_access_key_id=None,
        rotation_id=RotationId("r1"),
        published_at=START,
    )


def ids(world: World) -> list[tuple[int, bool, str | None]]:
    history = world.vault.history(PLACE)
    assert history is not None
    return [(one.version, one.readable, one.access_key_id) for one in history.versions]


def test_what_was_published_is_served(world: World) -> None:
    assert publish(world) == (1, START)
    assert world.vault.current(PLACE) == held(1, "AKIAONE")
    assert world.vault.read_pair(PLACE, 1) == ONE
    assert world.vault.read_pair(PLACE, 2) is None
    assert world.operators.served_fields(PLACE)["made_by"] == "rekeyd"


def test_nothing_written_is_absent_and_has_no_history(world: World) -> None:
    assert world.vault.current(PLACE) == VaultAbsent(0)
    assert world.vault.history(PLACE) is None
    assert world.vault.read_pair(PLACE, 1) is None


def test_two_field_names_are_two_places_but_one_secret(world: World) -> None:
    publish(world)
    other = Place(
        address=PLACE.address, namespace="", mount="secret", path="aws/ci", id_field="id", secret_field="secret"
    )
    assert world.vault.current(other) == VaultWithoutPair(1, ("access_key_id", "made_by", "secret_access_key"))


def test_check_and_set_refuses_any_other_number(world: World) -> None:
    publish(world)
    for wrong in (0, 2, 99):
        with pytest.raises(ConflictError, match="aws/ci"):
            publish(world, TWO, cas=wrong)
    assert publish(world, TWO, cas=1)[0] == 2


def test_the_same_publish_again_finds_its_own_version(world: World) -> None:
    first = publish(world)
    world.clock.advance(MINUTE)
    assert publish(world) == first
    assert world.vault.current(PLACE) == held(1, "AKIAONE")


def test_other_peoples_fields_survive_a_publish(world: World) -> None:
    world.operators.write_fields(PLACE, {"owner": "team-a", "access_key_id": "AKIAOLD", "secret_access_key": "x"})
    publish(world, cas=1)
    fields = world.operators.served_fields(PLACE)
    assert (fields["owner"], fields["access_key_id"]) == ("team-a", "AKIAONE")


def test_an_extra_field_may_not_hide_the_pair(world: World) -> None:
    with pytest.raises(RefusedError, match="two fields have the same name"):
        world.vault.publish(
            PLACE, ONE, cas=0, extra={"access_key_id": "x"}, guard=free, give_up_at=world.clock.now() + MINUTE
        )


def test_a_soft_deleted_version_can_be_undeleted_and_counts_for_check_and_set(world: World) -> None:
    publish(world)
    world.operators.soft_delete(PLACE)
    assert world.vault.current(PLACE) == VaultDeleted(1)
    assert ids(world) == [(1, False, None)]
    with pytest.raises(RefusedError, match="deleted or destroyed"):
        publish(world, TWO, cas=1)
    with pytest.raises(OutcomeUnknownError, match="may have been ours"):
        publish(world, TWO, cas=0)
    world.operators.undelete(PLACE)
    assert world.vault.current(PLACE) == held(1, "AKIAONE")


def test_a_destroyed_version_is_gone_for_good(world: World) -> None:
    publish(world)
    publish(world, TWO, cas=1)
    world.vault.destroy(PLACE, [1])
    world.vault.destroy(PLACE, [1, 77])
    assert ids(world) == [(1, False, None), (2, True, "AKIATWO")]
    world.operators.destroy(PLACE)
    assert world.vault.current(PLACE) == VaultDestroyed(2)
    world.operators.undelete(PLACE)
    assert world.vault.current(PLACE) == VaultDestroyed(2)


def test_numbering_starts_again_after_a_metadata_delete(world: World) -> None:
    publish(world)
    publish(world, TWO, cas=1)
    world.vault.write_note(PLACE, note(2, "AKIATWO"))
    world.operators.delete_metadata(PLACE)
    assert world.vault.current(PLACE) == VaultAbsent(0)
    world.clock.advance(MINUTE)
    assert publish(world, TWO) == (1, START + MINUTE)
    assert world.vault.current(PLACE) == held(1, "AKIATWO", at=START + MINUTE)
    history = world.vault.history(PLACE)
    assert history is not None
    assert history.created_at == START + MINUTE


def test_old_versions_are_trimmed_at_the_next_write(world: World) -> None:
    for number in range(12):
        world.operators.write_fields(PLACE, {"n": str(number)})
    assert [number for number, _, _ in ids(world)] == list(range(3, 13))
    world.operators.set_max_versions(PLACE, 2)
    assert len(ids(world)) == 10
    world.operators.edit_field(PLACE, "n", "x")
    history = world.vault.history(PLACE)
    assert history is not None
    assert (history.oldest_version, history.current_version) == (12, 13)
    assert [number for number, _, _ in ids(world)] == [12, 13]


def test_created_time_is_the_servers_clock(world: World) -> None:
    world.vault.state.clock_offset = -MINUTE
    assert publish(world) == (1, START - MINUTE)


def test_a_note_counts_only_for_the_key_and_the_version_that_it_names(world: World) -> None:
    publish(world)
    world.vault.write_note(PLACE, note(1))
    assert world.vault.current(PLACE) == held(1, "AKIAONE", note(1))
    world.operators.edit_field(PLACE, "owner", "team-a")
    assert world.vault.current(PLACE) == held(2, "AKIAONE", note(1))
    world.vault.write_note(PLACE, note(9))
    assert world.vault.current(PLACE) == held(2, "AKIAONE")
    world.vault.write_note(PLACE, note(2, "AKIATWO"))
    assert world.vault.current(PLACE) == held(2, "AKIAONE")


def test_a_note_needs_a_secret_and_leaves_other_metadata_alone(world: World) -> None:
    with pytest.raises(NotFoundError, match="no metadata"):
        world.vault.write_note(PLACE, note(1))
    publish(world)
    world.operators.set_custom_metadata(PLACE, {"owner": "team-a"})
    world.vault.write_note(PLACE, note(1))
    (secret,) = world.vault.state.secrets.values()
    assert (secret.custom_metadata, secret.note) == ({"owner": "team-a"}, note(1))
    world.operators.drop_note(PLACE)
    assert world.vault.current(PLACE) == held(1, "AKIAONE")


def test_a_burn_moves_the_version_and_changes_nothing_else(world: World) -> None:
    publish(world)
    before = world.operators.served_fields(PLACE)
    assert world.vault.burn(PLACE, cas=1, guard=free) == 2
    assert world.operators.served_fields(PLACE) == before
    assert world.vault.burn(PLACE, cas=1, guard=free) == 2
    publish(world, TWO, cas=2)
    with pytest.raises(ConflictError, match="somebody else"):
        world.vault.burn(PLACE, cas=2, guard=free)


def test_a_burn_of_nothing_leaves_a_marker_that_counts_as_absent(world: World) -> None:
    assert world.vault.burn(PLACE, cas=0, guard=free) == 1
    assert world.vault.current(PLACE) == VaultAbsent(1)
    with pytest.raises(ConflictError, match="somebody else"):
        publish(world, cas=0)
    publish(world, cas=1)
    assert set(world.operators.served_fields(PLACE)) == {"access_key_id", "secret_access_key", "made_by"}


def test_a_burn_over_what_consumers_cannot_read_is_refused(world: World) -> None:
    publish(world)
    world.operators.soft_delete(PLACE)
    with pytest.raises(RefusedError, match="deleted or destroyed"):
        world.vault.burn(PLACE, cas=1, guard=free)
    with pytest.raises(ConflictError, match="no version 5"):
        world.vault.burn(PLACE, cas=5, guard=free)


def test_a_lost_lease_has_no_effect(world: World) -> None:
    with pytest.raises(LeaseLostError, match="the lease is lost"):
        publish(world, guard=lease_lost)
    with pytest.raises(LeaseLostError, match="the lease is lost"):
        world.vault.burn(PLACE, cas=0, guard=lease_lost)
    assert world.vault.current(PLACE) == VaultAbsent(0)


def test_a_sealed_vault_is_unreadable_and_a_publish_waits_for_it(world: World) -> None:
    publish(world)
    world.vault.seal()
    assert isinstance(world.vault.current(PLACE), VaultUnreadable)
    assert world.vault.history(PLACE) is None
    with pytest.raises(TemporaryError, match="sealed"):
        world.vault.read_pair(PLACE, 1)
    with pytest.raises(PreconditionError, match="sealed"):
        world.vault.check_writable(PLACE)
    world.clock.after(MINUTE, world.vault.unseal)
    assert publish(world, TWO, cas=1) == (2, START + MINUTE)
    world.vault.check_writable(PLACE)


def test_a_publish_that_was_never_sent_ends_as_a_temporary_error(world: World) -> None:
    world.vault.down = True
    with pytest.raises(TemporaryError, match="cannot connect"):
        publish(world)
    assert world.clock.now() == START + 10 * MINUTE
    world.clock.after(MINUTE, world.clock.stop)
    with pytest.raises(StoppingError, match="asked to stop"):
        publish(world)


def test_the_guard_is_asked_before_every_try_of_a_publish(world: World) -> None:
    asked: list[datetime] = []
    world.vault.seal()
    world.clock.after(timedelta(seconds=7), world.vault.unseal)
    publish(world, guard=lambda: asked.append(world.clock.now()))
    assert len(asked) == 3


def test_what_the_token_may_not_do_is_refused(world: World) -> None:
    world.vault.denied |= {"publish", "current"}
    assert isinstance(world.vault.current(PLACE), VaultUnreadable)
    with pytest.raises(PreconditionError, match="lacks the capability"):
        world.vault.check_writable(PLACE)
    with pytest.raises(AccessDeniedError, match="publish is denied"):
        publish(world)


def test_a_kv_version_1_mount_is_refused(world: World) -> None:
    world.vault.kv_version = 1
    with pytest.raises(PreconditionError, match="not KV version 2"):
        world.vault.check_writable(PLACE)


@pytest.mark.parametrize("error", [OutcomeUnknownError("no answer"), Crash("no answer")])
def test_a_write_may_land_although_the_caller_never_learnt(world: World, error: BaseException) -> None:
    world.fault("vault.publish", when="after", error=error)
    with pytest.raises(type(error), match="no answer"):
        publish(world)
    assert world.vault.current(PLACE) == held(1, "AKIAONE")


def test_a_write_may_land_late_and_a_burn_keeps_it_out(world: World) -> None:
    for _ in range(2):
        world.late("vault.publish", delay=timedelta(hours=1))
        with pytest.raises(OutcomeUnknownError, match="the answer was lost"):
            publish(world)
        assert world.vault.current(PLACE) == VaultAbsent(0)
        world.clock.advance(timedelta(hours=1))
        assert world.vault.current(PLACE) == held(1, "AKIAONE", at=world.clock.now())
        world.operators.delete_metadata(PLACE)
    world.late("vault.publish", delay=timedelta(hours=1))
    with pytest.raises(OutcomeUnknownError, match="the answer was lost"):
        publish(world)
    world.vault.burn(PLACE, cas=0, guard=free)
    world.clock.advance(timedelta(hours=1))
    assert world.vault.current(PLACE) == VaultAbsent(1)


def test_faults_of_reads_follow_the_ports_rules(world: World) -> None:
    world.fault("vault.*", times=None, error=lost("vault"))
    assert isinstance(world.vault.current(PLACE), VaultUnreadable)
    assert world.vault.history(PLACE) is None
    with pytest.raises(OutcomeUnknownError, match="the answer was lost"):
        world.vault.read_pair(PLACE, 1)


def test_the_mark_is_check_and_set_too(world: World) -> None:
    none = world.vault.read_mark()
    assert none == Mark(version=0, instance="", incarnation="", seq=0, event_hash="")
    first = Mark(version=0, instance="a", incarnation="i", seq=7, event_hash="h")
    assert world.vault.write_mark(first) == 1
    assert world.vault.write_mark(first) == 1
    assert world.vault.read_mark() == Mark(version=1, instance="a", incarnation="i", seq=7, event_hash="h")
    with pytest.raises(ConflictError, match="vault mark"):
        world.vault.write_mark(Mark(version=0, instance="b", incarnation="i", seq=7, event_hash="h"))
    world.vault.denied.add("write_mark")
    with pytest.raises(AccessDeniedError, match="write_mark is denied"):
        world.vault.write_mark(Mark(version=1, instance="a", incarnation="i", seq=8, event_hash="h"))


def test_an_old_version_can_be_restored_by_an_operator(world: World) -> None:
    publish(world)
    publish(world, TWO, cas=1)
    assert world.operators.restore(PLACE, 1) == 3
    assert world.vault.current(PLACE) == held(3, "AKIAONE")


def test_the_tokens_end_is_what_the_test_says(world: World) -> None:
    assert world.vault.token_ends_at() is None
    world.vault.token_end = START + MINUTE
    assert world.vault.token_ends_at() == START + MINUTE


def test_no_secret_is_in_the_journal_of_calls(world: World) -> None:
    publish(world)
    world.vault.read_pair(PLACE, 1)
    assert "world-vault-secret" not in repr([(call.name, call.args) for call in world.calls])
