"""A key's way out: clocks, changes without an outcome, anchors."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from rekeyd.core.model import RetireWhy
from rekeyd.core.reasons import Reason
from rekeyd.errors import JournalError
from tests.unit.journal_stand import ACCOUNT, CI, DAY, MINUTE, NEW, OLD, Stand, anchor, in_memory


@pytest.fixture
def stand() -> Iterator[Stand]:
    with in_memory() as stand:
        yield stand


def retire(stand: Stand) -> None:
    stand.account.start_retirement(
        CI, OLD, why=RetireWhy.SPARE, reason=Reason.SPARE_KEY, anchor=anchor(NEW), at=stand.clock.now()
    )


def test_a_retirement_starts_its_clock(stand: Stand) -> None:
    retire(stand)
    assert (stand.retirement().why, stand.retirement().started_at) == (RetireWhy.SPARE, stand.clock.now())
    assert stand.account.known(CI).anchor == anchor(NEW)
    assert stand.journal.open_users(ACCOUNT) == {CI.user_id: "ci"}


def test_a_retirement_that_starts_again_starts_anew(stand: Stand) -> None:
    retire(stand)
    stand.change("deactivate")
    stand.clock.advance(DAY)
    retire(stand)
    assert stand.retirement().started_at == stand.clock.now()
    assert stand.retirement().deactivated_at is None


def test_an_intended_deactivation_counts_as_ours_before_it_is_done(stand: Stand) -> None:
    retire(stand)
    stand.clock.advance(MINUTE)
    stand.account.change_intended(CI, OLD, verb="deactivate", reason=Reason.OVERLAP_ENDED, at=stand.clock.now())
    assert stand.key(OLD).deactivated_by_us
    assert stand.retirement().deactivation_sent_at == stand.clock.now()
    assert stand.retirement().deactivated_at is None
    (pending,) = stand.account.known(CI).pending
    assert (pending.key_id, pending.verb, pending.sent_at) == (OLD, "deactivate", stand.clock.now())
    assert (pending.holder, pending.holder_alive) == (stand.journal.holder, True)


def test_a_done_deactivation_starts_the_quarantine(stand: Stand) -> None:
    retire(stand)
    stand.clock.advance(MINUTE)
    stand.change("deactivate")
    assert stand.retirement().deactivated_at == stand.clock.now()
    assert stand.account.known(CI).pending == ()
    assert stand.account.known(CI).last_change_at == stand.clock.now()


def test_a_reactivation_voids_the_quarantine(stand: Stand) -> None:
    retire(stand)
    stand.change("deactivate")
    started_at = stand.retirement().started_at
    stand.account.change_intended(CI, OLD, verb="reactivate", reason=Reason.ROLLBACK, at=stand.clock.now())
    assert stand.key(OLD).deactivated_by_us
    stand.account.change_done(CI, OLD, verb="reactivate", at=stand.clock.now())
    assert not stand.key(OLD).deactivated_by_us
    assert (stand.retirement().deactivated_at, stand.retirement().deactivation_sent_at) == (None, None)
    assert stand.retirement().started_at == started_at


def test_a_deleted_key_leaves_nothing_open(stand: Stand) -> None:
    retire(stand)
    stand.change("deactivate")
    stand.change("delete")
    assert stand.journal.open_users(ACCOUNT) == {}
    assert stand.events()[-1] == "key.deleted"


def test_a_change_that_failed_leaves_the_facts_as_they_were(stand: Stand) -> None:
    retire(stand)
    before = stand.key(OLD)
    for verb in ("deactivate", "delete"):
        stand.account.change_intended(CI, OLD, verb=verb, reason=Reason.OVERLAP_ENDED, at=stand.clock.now())
        stand.account.change_failed(CI, OLD, verb=verb, detail="AccessDenied", at=stand.clock.now())
    assert stand.key(OLD) == before
    assert stand.account.known(CI).pending == ()


def test_a_second_failing_deactivation_does_not_undo_the_first(stand: Stand) -> None:
    retire(stand)
    stand.change("deactivate")
    before = stand.key(OLD)
    stand.clock.advance(DAY)
    stand.account.change_intended(CI, OLD, verb="deactivate", reason=Reason.OVERLAP_ENDED, at=stand.clock.now())
    stand.account.change_failed(CI, OLD, verb="deactivate", detail="Throttling", at=stand.clock.now())
    assert stand.key(OLD) == before


@pytest.mark.parametrize("happened", [True, False])
def test_a_later_look_settles_what_was_pending(stand: Stand, *, happened: bool) -> None:
    retire(stand)
    stand.account.change_intended(CI, OLD, verb="deactivate", reason=Reason.OVERLAP_ENDED, at=stand.clock.now())
    stand.clock.advance(DAY)
    stand.account.settle_pending(CI, OLD, verb="deactivate", happened=happened, at=stand.clock.now())
    assert stand.key(OLD).deactivated_by_us is happened
    assert stand.retirement().deactivated_at == (stand.clock.now() if happened else None)
    assert stand.account.known(CI).pending == ()


def test_a_predecessors_pending_change_outlives_our_own(stand: Stand) -> None:
    retire(stand)
    stand.account.change_intended(CI, OLD, verb="deactivate", reason=Reason.OVERLAP_ENDED, at=stand.clock.now())
    predecessor = stand.journal.holder
    successor = stand.journal.another_holder()
    stand.journal.die()
    taken = successor.acquire(ACCOUNT, actor="daemon")
    assert taken is not None
    (pending,) = taken.known(CI).pending
    assert (pending.holder, pending.holder_alive) == (predecessor, False)
    taken.change_intended(CI, OLD, verb="deactivate", reason=Reason.OVERLAP_ENDED, at=stand.clock.now())
    taken.change_done(CI, OLD, verb="deactivate", at=stand.clock.now())
    assert [change.holder for change in taken.known(CI).pending] == [predecessor]
    taken.settle_pending(CI, OLD, verb="deactivate", happened=True, at=stand.clock.now())
    assert taken.known(CI).pending == ()
    successor.close()


def test_an_outcome_needs_an_intent(stand: Stand) -> None:
    with pytest.raises(JournalError, match="nothing says that rekeyd meant to delete AKIAOLD"):
        stand.account.change_done(CI, OLD, verb="delete", at=stand.clock.now())


def test_an_unheard_of_change_is_refused(stand: Stand) -> None:
    with pytest.raises(JournalError, match="'destroy' is no change of a key"):
        stand.account.change_intended(CI, OLD, verb="destroy", reason=Reason.DUE, at=stand.clock.now())


def test_a_key_seen_inactive_starts_its_quarantine_then(stand: Stand) -> None:
    retire(stand)
    stand.clock.advance(DAY)
    stand.account.seen_inactive(CI, OLD, reason=Reason.SEEN_INACTIVE, at=stand.clock.now())
    assert stand.retirement().deactivated_at == stand.clock.now()
    with pytest.raises(JournalError, match="AKIANEW of 111122223333/ci is not retiring"):
        stand.account.seen_inactive(CI, NEW, reason=Reason.SEEN_INACTIVE, at=stand.clock.now())


def test_a_retirement_can_end_without_a_change_of_ours(stand: Stand) -> None:
    retire(stand)
    stand.account.end_retirement(CI, OLD, reason=Reason.NEW_KEY_GONE, at=stand.clock.now())
    assert stand.journal.open_users(ACCOUNT) == {}


def test_restarted_clocks_count_from_the_restart(stand: Stand) -> None:
    retire(stand)
    stand.change("deactivate")
    stand.clock.advance(DAY)
    stand.account.restart_clocks(CI, reason="broken run", anchor=anchor(OLD, 9), at=stand.clock.now())
    assert (stand.retirement().started_at, stand.retirement().deactivated_at) == (stand.clock.now(),) * 2
    assert stand.account.known(CI).anchor == anchor(OLD, 9)
    assert stand.facts().proven_version is None


def test_restarted_clocks_never_start_a_quarantine(stand: Stand) -> None:
    retire(stand)
    stand.account.restart_clocks(CI, reason="broken run", anchor=anchor(), at=stand.clock.now())
    assert stand.retirement().deactivated_at is None


def test_a_lost_journal_restarts_the_clocks_of_everybody(stand: Stand) -> None:
    retire(stand)
    stand.change("deactivate")
    stand.clock.advance(DAY)
    restart = stand.clock.now()
    stand.journal.restart_all_clocks(reason="older than the mark", at=restart)
    assert (stand.retirement().started_at, stand.retirement().deactivated_at) == (restart, restart)
    stand.journal.restart_all_clocks(reason="again, with an earlier time", at=restart - DAY)
    assert stand.retirement().started_at == restart
    stand.clock.advance(DAY)
    stand.account.seen_inactive(CI, OLD, reason=Reason.SEEN_INACTIVE, at=stand.clock.now())
    assert stand.retirement().deactivated_at == stand.clock.now()


def test_an_anchor_moves_with_the_version_and_without_an_event(stand: Stand) -> None:
    retire(stand)
    events = stand.events()
    stand.account.reanchor(CI, anchor=anchor(NEW, 7))
    assert stand.account.known(CI).anchor == anchor(NEW, 7)
    assert stand.events() == events


def test_an_anchor_does_not_move_to_another_key(stand: Stand) -> None:
    retire(stand)
    with pytest.raises(JournalError, match="their clocks must start again"):
        stand.account.reanchor(CI, anchor=anchor(OLD, 7))


def test_a_proof_of_another_key_restarts_the_clocks(stand: Stand) -> None:
    retire(stand)
    stand.clock.advance(DAY)
    stand.account.proven(CI, anchor=anchor(NEW, 4), at=stand.clock.now())
    assert stand.retirement().started_at == stand.clock.now() - DAY
    stand.account.proven(CI, anchor=anchor(OLD, 5), at=stand.clock.now())
    assert stand.retirement().started_at == stand.clock.now()
    assert stand.facts().proven_version == 5


def test_a_dead_held_key_is_remembered_from_its_first_sight(stand: Stand) -> None:
    since = stand.clock.now()
    stand.account.held_dead(CI, since=since)
    stand.account.held_dead(CI, since=since)
    assert stand.facts().held_dead_since == since
    stand.account.held_dead(CI, since=None)
    stand.account.held_dead(CI, since=None)
    assert stand.facts().held_dead_since is None
    assert stand.events()[-2:] == ["held_key.died", "held_key.recovered"]


def test_a_healthy_user_costs_no_row(stand: Stand) -> None:
    stand.account.held_dead(CI, since=None)
    stand.account.succeeded(CI)
    assert stand.account.known(CI).user_name is None


def test_failures_count_until_a_success(stand: Stand) -> None:
    retry_at = stand.clock.now() + timedelta(minutes=5)
    counts = [
        stand.account.failed(CI, error="throttled", retry_at=retry_at, counts_for_brake=True, at=stand.clock.now())
        for _ in range(2)
    ]
    assert counts == [1, 2]
    assert (stand.account.known(CI).failures, stand.account.known(CI).retry_at) == (2, retry_at)
    stand.account.succeeded(CI)
    assert (stand.account.known(CI).failures, stand.account.known(CI).retry_at) == (0, None)
    assert stand.events()[-1] == "principal.recovered"
