"""A clock of the journal counts while Vault's versions vouch for it; else it starts again: later, never sooner."""

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from rekeyd.core.model import (
    AccessKeyId,
    KeyFacts,
    KeyStatus,
    Retirement,
    RetireWhy,
    VaultAbsent,
    VaultDeleted,
    VaultDestroyed,
    VaultHistory,
    VaultSeen,
    VaultUnreadable,
    VaultWithoutPair,
)
from rekeyd.core.state import State
from rekeyd.ports import Anchored, Known
from rekeyd.reconcile.trust import anchor_of, history_needed, trusted
from tests.rig import ACCOUNT, DAY, Rig, policy
from tests.unit.journal_stand import PLACE
from tests.unit.test_decide import NEW, NOW, OLD, SECOND, THIRD, USER, facts, held, history
from tests.world import Consumer

STARTED = NOW - 3 * DAY
RETIRING = {
    OLD: KeyFacts(retirement=Retirement(why=RetireWhy.OVERLAP, started_at=STARTED, deactivated_at=NOW - DAY)),
    THIRD: KeyFacts(retirement=Retirement(why=RetireWhy.OVERLAP, started_at=STARTED)),
    NEW: KeyFacts(published=True),
}


def anchored(key_id: AccessKeyId | None, version: int, shown: VaultHistory | None = None) -> Anchored:
    """At the very version that `shown` has, so that numbers and dates agree."""
    made = None if shown is None else next((v.created_at for v in shown.versions if v.version == version), None)
    return Anchored(access_key_id=key_id, version=version, version_created_at=made, place=PLACE)


def known(anchor: Anchored | None, keys: dict[AccessKeyId, KeyFacts] | None = None) -> Known:
    return Known(
        facts=facts(keys=RETIRING if keys is None else keys),
        user_name="ci",
        name_taken_by=None,
        anchor=anchor,
        pending=(),
        last_change_at=None,
        failures=0,
        retry_at=None,
        managed_before=True,
    )


@dataclass(slots=True)
class Written:
    """What a look wrote down."""

    reanchored: list[Anchored]
    restarted: list[Anchored]

    def reanchor(self, principal: object, *, anchor: Anchored) -> None:
        assert principal is USER
        self.reanchored.append(anchor)

    def restart_clocks(self, principal: object, *, reason: str, anchor: Anchored, at: object) -> None:
        assert principal is USER
        assert reason
        assert at == NOW
        self.restarted.append(anchor)


def look(anchor: Anchored | None, vault: VaultSeen, shown: VaultHistory | None) -> tuple[bool, Written]:
    """Whether the clocks ran on, and what was written down."""
    answer = trusted(USER, known(anchor), vault, PLACE, shown, NOW)
    written = Written([], [])
    for note in answer.notes:
        note(written)  # type: ignore[arg-type]
    ran_on = answer.facts.keys == RETIRING
    if not ran_on:
        fresh = answer.facts.keys
        assert fresh[OLD].retirement == Retirement(why=RetireWhy.OVERLAP, started_at=NOW, deactivated_at=NOW)
        assert fresh[THIRD].retirement == Retirement(why=RetireWhy.OVERLAP, started_at=NOW)
        assert fresh[NEW] == RETIRING[NEW]
    return ran_on, written


def as_history_shows(shown: VaultHistory) -> VaultSeen:
    last = shown.versions[-1]
    assert last.access_key_id is not None
    return replace(held(last.access_key_id, last.version), created_at=last.created_at)


# --- the clocks run on ------------------------------------------------------------------------------------------------


def test_the_same_version_needs_no_history_and_writes_nothing() -> None:
    vault = held(NEW, 5)
    anchor = Anchored(access_key_id=NEW, version=5, version_created_at=vault.created_at, place=PLACE)
    assert not history_needed(known(anchor), vault, PLACE)
    assert look(anchor, vault, None) == (True, Written([], []))


def test_an_anchor_without_a_date_is_compared_by_number_and_key() -> None:
    assert look(anchored(NEW, 5), held(NEW, 5), None) == (True, Written([], []))


def test_an_anchor_of_an_older_journal_learns_its_place() -> None:
    vault = held(NEW, 5)
    before = replace(anchored(NEW, 5), place=None)
    assert look(before, vault, None) == (True, Written([_anchor(vault)], []))


RUNS: dict[str, tuple[VaultHistory, int]] = {
    "somebody edited another field once": (history(OLD, NEW, NEW, first=3), 4),
    "somebody edited it many times": (history(NEW, NEW, NEW, NEW, NEW, first=4), 4),
    "the anchored version was trimmed, and all that are kept name the key": (history(NEW, NEW, first=40), 4),
    "a version before the anchor names another key": (history(OLD, OLD, NEW, NEW, first=2), 4),
}


@pytest.mark.parametrize("case", RUNS)
def test_the_clocks_run_on_and_the_anchor_moves_when(case: str) -> None:
    shown, version = RUNS[case]
    vault, anchor = as_history_shows(shown), anchored(NEW, version, shown)
    assert history_needed(known(anchor), vault, PLACE)
    assert look(anchor, vault, shown) == (True, Written([_anchor(vault)], []))


# --- the clocks start again -------------------------------------------------------------------------------------------

LATER = NOW - 50 * DAY
BREAKS: dict[str, tuple[VaultHistory | None, VaultSeen, Anchored]] = {
    "Vault serves another key": (history(NEW, OLD, first=4), held(OLD, 5), anchored(NEW, 4)),
    "another key was served in between": (history(NEW, OLD, NEW, first=4), held(NEW, 6), anchored(NEW, 4)),
    "a version in between is unreadable": (
        history(NEW, NEW, NEW, first=4, unreadable=(5,)),
        held(NEW, 6),
        anchored(NEW, 4),
    ),
    "a version in between held no pair": (history(NEW, None, NEW, first=4), held(NEW, 6), anchored(NEW, 4)),
    "a kept version after a trimmed anchor names another key": (
        history(OLD, NEW, first=40),
        held(NEW, 41),
        anchored(NEW, 4),
    ),
    "the history cannot be read": (None, held(NEW, 6), anchored(NEW, 4)),
    "the history is older than what Vault serves": (history(NEW, NEW, first=4), held(NEW, 6), anchored(NEW, 4)),
    "the number went back": (history(NEW, NEW, first=1), held(NEW, 2), anchored(NEW, 4)),
    "numbering restarted and caught up": (
        replace(history(NEW, NEW, NEW, NEW, NEW), created_at=LATER),
        held(NEW, 5),
        Anchored(access_key_id=NEW, version=4, version_created_at=LATER - SECOND, place=PLACE),
    ),
    "the anchored number names another write now": (
        history(NEW, NEW, first=4),
        held(NEW, 5),
        Anchored(access_key_id=NEW, version=4, version_created_at=LATER, place=PLACE),
    ),
    "the same number and key, made at another time": (
        None,
        held(NEW, 5),
        Anchored(access_key_id=NEW, version=5, version_created_at=LATER, place=PLACE),
    ),
    "it stood at another place": (
        history(NEW, NEW, NEW, NEW, NEW, first=1),
        held(NEW, 5),
        replace(anchored(NEW, 4), place=replace(PLACE, path="elsewhere")),
    ),
    "the same version of another place": (
        None,
        held(NEW, 5),
        replace(anchored(NEW, 5), place=replace(PLACE, mount="elsewhere")),
    ),
    "the pair is gone": (history(NEW, None, first=4), VaultAbsent(5), anchored(NEW, 4)),
    "there never was an anchor": (history(NEW, NEW, first=4), held(NEW, 5), None),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("case", BREAKS)
def test_the_clocks_start_again_when(case: str) -> None:
    shown, vault, anchor = BREAKS[case]
    assert look(anchor, vault, shown) == (False, Written([], [_anchor(vault)]))


def test_a_secret_made_in_the_very_moment_of_the_anchored_version_is_the_same_secret() -> None:
    shown = history(NEW, NEW, first=1)
    made = shown.versions[0].created_at
    anchor = Anchored(access_key_id=NEW, version=1, version_created_at=made, place=PLACE)
    assert look(anchor, held(NEW, 2), replace(shown, created_at=made))[0]
    assert not look(anchor, held(NEW, 2), replace(shown, created_at=made + SECOND))[0]


def test_without_a_clock_there_is_nothing_to_start_again() -> None:
    plain = known(None, {NEW: KeyFacts(published=True)})
    answer = trusted(USER, plain, held(NEW, 5), PLACE, None, NOW)
    assert (answer.facts, answer.notes) == (plain.facts, ())


# --- Vault says nothing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vault", [VaultUnreadable("sealed"), VaultDeleted(5), VaultDestroyed(5), VaultWithoutPair(5, ("x",))], ids=repr
)
def test_while_vault_shows_no_pair_clocks_are_left_alone(vault: VaultSeen) -> None:
    """The decision refuses before it would use one; a restart could be noted for a mere outage."""
    assert anchor_of(vault, PLACE) is None
    assert not history_needed(known(anchored(NEW, 4)), vault, PLACE)
    assert look(anchored(NEW, 4), vault, None) == (True, Written([], []))


def test_an_empty_place_is_an_anchor_too() -> None:
    nothing = Anchored(access_key_id=None, version=0, version_created_at=None, place=PLACE)
    assert anchor_of(VaultAbsent(0), PLACE) == nothing
    assert look(anchored(None, 0), VaultAbsent(0), None) == (True, Written([], []))


def test_without_an_anchor_no_history_is_asked_for() -> None:
    assert not history_needed(known(None), held(NEW, 5), PLACE)


def _anchor(vault: VaultSeen) -> Anchored:
    found = anchor_of(vault, PLACE)
    assert found is not None
    return found


# --- on the world -----------------------------------------------------------------------------------------------------


def _in_overlap() -> tuple[Rig, AccessKeyId]:
    rig = Rig(policy(overlap=7 * DAY))
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    (old,) = rig.world.keys(ACCOUNT, "ci")
    assert rig.look("ci").published
    rig.world.clock.advance(4 * DAY)
    return rig, old.id


def _deactivated_after(rig: Rig, old: AccessKeyId) -> timedelta:
    since = rig.world.clock.now()
    rig.settle(until=lambda worked: worked.outcome is not None and worked.outcome.state == State.QUARANTINE)
    assert rig.world.key(old).status is KeyStatus.INACTIVE
    return rig.world.clock.now() - since


def test_an_editor_of_another_field_does_not_prolong_an_overlap() -> None:
    rig, old = _in_overlap()
    place = rig.world.place(ACCOUNT, "ci")
    for number in range(30):  # more than max_versions keeps
        rig.world.operators.edit_field(place, "comment", str(number))
    assert rig.look("ci").error is None
    assert _deactivated_after(rig, old) < 4 * DAY
    rig.world.check_promises()


def test_a_key_put_back_and_taken_away_again_gets_a_whole_overlap() -> None:
    rig, old = _in_overlap()
    place = rig.world.place(ACCOUNT, "ci")
    new = rig.world.held_id(ACCOUNT, "ci")
    assert new is not None
    rig.world.operators.write_pair(place, rig.world.pair(old))
    consumer = Consumer(rig.world, place)
    assert consumer.refresh()
    rig.world.operators.write_pair(place, rig.world.pair(new))
    assert rig.look("ci").error is None
    assert _deactivated_after(rig, old) >= 7 * DAY
    rig.world.check_promises()


def test_a_secret_made_anew_gets_a_whole_overlap() -> None:
    rig, old = _in_overlap()
    place = rig.world.place(ACCOUNT, "ci")
    new = rig.world.held_id(ACCOUNT, "ci")
    assert new is not None
    rig.world.operators.delete_metadata(place)
    for _ in range(3):  # past the number that the journal knows
        rig.world.operators.write_pair(place, rig.world.pair(new))
    assert rig.look("ci").error is None
    assert _deactivated_after(rig, old) >= 7 * DAY
    rig.world.check_promises()
