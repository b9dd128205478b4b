"""What every `Vault` does, the real one on OpenBao and the one in memory alike."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.core.model import VaultAbsent, VaultDeleted, VaultDestroyed, VaultHeld, VaultWithoutPair
from rekeyd.demo.openbao import OpenBaoServer
from rekeyd.errors import ConflictError, LeaseLostError, NotFoundError
from rekeyd.ports import Mark
from tests.contract.vault_stand import (
    NEW,
    OLD,
    STRANGE,
    OpenBaoStand,
    Stand,
    WorldStand,
    fields,
    note,
    pair,
    secret_of,
    unguarded,
)


@pytest.fixture(params=["memory", pytest.param("openbao", marks=pytest.mark.slow)])
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stand]:
    if request.param == "memory":
        yield WorldStand()
        return
    server: OpenBaoServer = request.getfixturevalue("openbao")
    real = OpenBaoStand(server, request.getfixturevalue("kv_mount"), tmp_path)
    yield real
    real.close()


def publish(stand: Stand, *, cas: int, extra: dict[str, str] | None = None) -> int:
    give_up_at = stand.clock.now() + timedelta(minutes=1)
    version, _ = stand.vault.publish(
        stand.place, pair(NEW), cas=cas, extra=extra or {}, guard=unguarded, give_up_at=give_up_at
    )
    return version


def test_a_secret_that_was_never_written_is_absent(stand: Stand) -> None:
    assert stand.vault.current(stand.place) == VaultAbsent(0)
    assert stand.vault.history(stand.place) is None
    assert stand.vault.read_pair(stand.place, 1) is None


def test_a_pair_that_is_there_is_held_with_version_and_date(stand: Stand) -> None:
    stand.put(fields(OLD))
    stand.put(fields(NEW))
    held = stand.vault.current(stand.place)
    assert isinstance(held, VaultHeld)
    assert (held.version, held.access_key_id, held.note) == (2, NEW, None)
    assert held.created_at.utcoffset() == timedelta(0)


def test_a_soft_deleted_secret_keeps_its_number(stand: Stand) -> None:
    stand.put(fields(OLD))
    stand.soft_delete()
    assert stand.vault.current(stand.place) == VaultDeleted(1)
    assert stand.vault.read_pair(stand.place, 1) is None


def test_a_destroyed_secret_keeps_its_number(stand: Stand) -> None:
    stand.put(fields(OLD))
    stand.put(fields(OLD))
    stand.destroy_current()
    assert stand.vault.current(stand.place) == VaultDestroyed(2)


@pytest.mark.parametrize(
    "written",
    [{"password": "x"}, {"access_key_id": OLD}, {"access_key_id": OLD, "secret_access_key": ""}],
    ids=["other fields", "half a pair", "an empty half"],
)
def test_a_secret_without_a_pair_shows_the_names_of_its_fields(stand: Stand, written: dict[str, str]) -> None:
    stand.put(written)
    assert stand.vault.current(stand.place) == VaultWithoutPair(1, tuple(sorted(written)))


def test_publishing_where_nothing_was_makes_version_one(stand: Stand) -> None:
    assert publish(stand, cas=0) == 1
    assert stand.fields() == fields(NEW)


def test_publishing_returns_the_date_that_a_later_look_shows(stand: Stand) -> None:
    give_up_at = stand.clock.now() + timedelta(minutes=1)
    version, created_at = stand.vault.publish(
        stand.place, pair(NEW), cas=0, extra={}, guard=unguarded, give_up_at=give_up_at
    )
    assert stand.vault.current(stand.place) == VaultHeld(version=version, created_at=created_at, access_key_id=NEW)


def test_publishing_keeps_the_fields_of_other_people_and_writes_the_extra_ones(stand: Stand) -> None:
    stand.put(fields(OLD, owner="payments", team="old"))
    assert publish(stand, cas=1, extra={"team": "new"}) == 2
    assert stand.fields() == fields(NEW, owner="payments", team="new")
    assert stand.fields(1) == fields(OLD, owner="payments", team="old")


def test_publishing_over_somebody_elses_version_is_a_conflict(stand: Stand) -> None:
    stand.put(fields(OLD))
    stand.put(fields(STRANGE))
    with pytest.raises(ConflictError, match="aws/111122223333/ci"):
        publish(stand, cas=1)
    assert stand.fields() == fields(STRANGE)


def test_publishing_twice_with_one_number_makes_one_version(stand: Stand) -> None:
    stand.put(fields(OLD))
    assert publish(stand, cas=1) == publish(stand, cas=1) == 2
    assert stand.fields(3) is None


def test_publishing_without_the_lease_sends_nothing(stand: Stand) -> None:
    def lost() -> None:
        raise LeaseLostError("somebody else holds the account")

    with pytest.raises(LeaseLostError, match="somebody else"):
        stand.vault.publish(
            stand.place, pair(NEW), cas=0, extra={}, guard=lost, give_up_at=stand.clock.now() + timedelta(minutes=1)
        )
    with pytest.raises(LeaseLostError, match="somebody else"):
        stand.vault.burn(stand.place, cas=0, guard=lost)
    assert stand.vault.current(stand.place) == VaultAbsent(0)


def test_a_pair_is_read_by_its_version(stand: Stand) -> None:
    stand.put(fields(OLD))
    stand.put(fields(NEW))
    old = stand.vault.read_pair(stand.place, 1)
    assert old is not None
    assert (old.access_key_id, old.secret_access_key.reveal()) == (OLD, secret_of(OLD))
    assert stand.vault.read_pair(stand.place, 3) is None


def test_a_burn_moves_the_version_and_changes_nothing_that_is_read(stand: Stand) -> None:
    stand.put(fields(OLD, owner="payments"))
    assert stand.vault.burn(stand.place, cas=1, guard=unguarded) == 2
    assert stand.fields() == fields(OLD, owner="payments")
    with pytest.raises(ConflictError, match="version"):
        publish(stand, cas=1)


def test_a_burn_where_nothing_was_counts_as_absent_with_its_number(stand: Stand) -> None:
    assert stand.vault.burn(stand.place, cas=0, guard=unguarded) == 1
    assert stand.vault.current(stand.place) == VaultAbsent(1)
    with pytest.raises(ConflictError, match="version"):
        publish(stand, cas=0)
    assert publish(stand, cas=1) == 2
    assert stand.fields() == fields(NEW), "the marker is gone with the first pair"


def test_a_burn_of_a_version_that_somebody_moved_is_a_conflict(stand: Stand) -> None:
    stand.put(fields(OLD))
    stand.put(fields(STRANGE))
    with pytest.raises(ConflictError, match="version"):
        stand.vault.burn(stand.place, cas=1, guard=unguarded)
    assert stand.fields() == fields(STRANGE)


def test_the_history_names_the_key_of_each_kept_version(stand: Stand) -> None:
    stand.put(fields(OLD))
    stand.put({"other": "x"})
    stand.put(fields(NEW))
    stand.vault.destroy(stand.place, [1])
    history = stand.vault.history(stand.place)
    assert history is not None
    assert (history.current_version, history.oldest_version) == (3, 1)
    seen = [(version.version, version.readable, version.access_key_id) for version in history.versions]
    assert seen == [(1, False, None), (2, True, None), (3, True, NEW)]
    assert history.created_at <= history.versions[0].created_at <= history.versions[2].created_at


def test_a_note_is_shown_while_the_key_that_it_names_is_held(stand: Stand) -> None:
    stand.put(fields(OLD))
    publish(stand, cas=1)
    stand.vault.write_note(stand.place, note(2))
    held = stand.vault.current(stand.place)
    assert isinstance(held, VaultHeld)
    assert held.note == note(2)
    assert held.version == 2, "a note makes no version"


def test_a_note_has_no_place_where_there_is_no_secret(stand: Stand) -> None:
    with pytest.raises(NotFoundError, match="aws/111122223333/ci"):
        stand.vault.write_note(stand.place, note(1))


def test_destroying_is_for_good_and_may_be_repeated(stand: Stand) -> None:
    stand.put(fields(OLD))
    stand.put(fields(NEW))
    stand.vault.destroy(stand.place, [1])
    stand.vault.destroy(stand.place, [1])
    stand.vault.destroy(stand.place, [])
    assert stand.vault.read_pair(stand.place, 1) is None
    assert stand.fields() == fields(NEW)


def test_the_mark_is_made_and_raised_by_check_and_set(stand: Stand) -> None:
    assert stand.vault.read_mark().version == 0
    mark = Mark(version=0, instance="default", incarnation="i1", seq=7, event_hash="abc")
    assert stand.vault.write_mark(mark) == 1
    assert stand.vault.read_mark() == Mark(version=1, instance="default", incarnation="i1", seq=7, event_hash="abc")
    assert stand.vault.write_mark(Mark(version=1, instance="default", incarnation="i1", seq=8, event_hash="def")) == 2
    with pytest.raises(ConflictError, match=r"mark|version"):
        stand.vault.write_mark(Mark(version=1, instance="other", incarnation="i2", seq=1, event_hash="x"))
    assert stand.vault.read_mark().seq == 8


def test_numbering_that_restarted_shows_in_the_history(stand: Stand) -> None:
    stand.put(fields(OLD))
    before = stand.vault.history(stand.place)
    stand.delete_all()
    stand.clock.advance(timedelta(seconds=1))
    stand.put(fields(NEW))
    after = stand.vault.history(stand.place)
    assert before is not None
    assert after is not None
    assert (after.current_version, after.created_at > before.created_at) == (1, True)
