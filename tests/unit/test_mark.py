"""The high-water mark: which journal may be acted on, and which starts every clock again."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from rekeyd.adapters.journal import SqlJournal, open_journal
from rekeyd.core.model import RetireWhy
from rekeyd.core.reasons import Reason
from rekeyd.core.state import State
from rekeyd.errors import ConflictError, Error, JournalError, PostponedError, StateError, StoppingError, TemporaryError
from rekeyd.fleet.mark import MarkKeeper
from rekeyd.ports import Mark
from tests.conftest import LogLines
from tests.rig import ACCOUNT, DAY, Rig, asked, policy
from tests.unit.journal_stand import CI, OLD, anchor
from tests.world import Fault, World


@dataclass(slots=True)
class Stand:
    world: World
    journal: SqlJournal
    keeper: MarkKeeper

    def start_clock(self) -> None:
        lease = self.journal.acquire(ACCOUNT, actor="daemon")
        assert lease is not None
        lease.start_retirement(
            CI, OLD, why=RetireWhy.OVERLAP, reason=Reason.SUPERSEDED, anchor=anchor(), at=self.world.clock.now()
        )
        self.journal.release(lease.lease)

    def started_at(self) -> object:
        retirement = self.journal.known(CI).facts.key(OLD).retirement
        assert retirement is not None
        return retirement.started_at

    def restarts(self) -> int:
        return sum(event.event == "clocks.restarted" for event in self.journal.history())

    @property
    def mark(self) -> Mark:
        assert self.world.vault.mark is not None
        return self.world.vault.mark

    def change(self, **changes: object) -> None:
        """Somebody else writes the mark."""
        self.world.vault.mark = replace(self.mark, version=self.mark.version + 1, **changes)  # type: ignore[arg-type]

    def writes(self) -> int:
        return self.world.counts["vault.write_mark"]

    def ask(self, user_name: str) -> int:
        return self.journal.ask(ACCOUNT, user_name, asked(emergency=True, at=self.world.clock.now()))


def restarted(it: Stand) -> None:
    """The retirement that asked was decided on clocks that count no more."""
    with pytest.raises(PostponedError) as postponed:
        it.keeper.confirm()
    assert (postponed.value.reason, postponed.value.until) == (Reason.JOURNAL_RESTORED, it.world.clock.now())


def stand(*, enabled: bool = True) -> Stand:
    world = World()
    journal = open_journal("sqlite://", instance="test", clock=world.clock, lease_ttl=1000 * DAY)
    keeper = MarkKeeper(vault=world.vault, journal=journal, clock=world.clock, enabled=enabled)
    return Stand(world, journal, keeper)


@pytest.fixture
def it() -> Iterator[Stand]:
    made = stand()
    yield made
    made.journal.close()


@pytest.fixture
def marked(it: Stand) -> Stand:
    """A journal with one clock, and a mark that knows of it."""
    it.start_clock()
    it.keeper.confirm()
    it.world.clock.advance(3 * DAY)
    return it


# --- the mark is as it was left ---------------------------------------------------------------------------------------


def test_a_first_mark_is_made_and_names_the_head(it: Stand) -> None:
    it.start_clock()
    head = it.journal.head()
    it.keeper.confirm()
    assert it.mark == Mark(
        version=1, instance="test", incarnation=head.incarnation, seq=head.seq, event_hash=head.event_hash
    )
    assert it.restarts() == 0


def test_a_mark_that_holds_is_not_written_again(marked: Stand) -> None:
    marked.keeper.confirm()
    marked.keeper.raise_()
    assert marked.keeper.problem() is None
    assert marked.writes() == 1
    assert marked.started_at() == marked.world.clock.now() - 3 * DAY


def test_a_new_clock_raises_the_mark(marked: Stand) -> None:
    marked.start_clock()
    marked.keeper.raise_()
    assert marked.mark.version == 2
    assert marked.journal.contains(marked.mark.seq, marked.mark.event_hash)
    assert not marked.journal.clock_event_since_mark()


def test_other_events_raise_it_only_at_the_refresh(marked: Stand) -> None:
    marked.journal.append("daemon.started", at=marked.world.clock.now(), actor="daemon")
    marked.keeper.confirm()
    assert marked.writes() == 1
    marked.keeper.refresh()
    assert marked.mark.seq == marked.journal.head().seq
    marked.keeper.refresh()
    assert marked.writes() == 2


# --- it is missing, or ahead of the journal ---------------------------------------------------------------------------


def test_a_mark_that_went_missing_restarts_every_clock(marked: Stand, log_lines: LogLines) -> None:
    marked.world.vault.mark = None
    restarted(marked)
    assert marked.started_at() == marked.world.clock.now()
    assert marked.mark.version == 1
    assert [line["level"] for line in log_lines() if line["event"] == "journal.restored"] == ["critical"]
    marked.keeper.confirm()
    assert marked.writes() == 2


@pytest.mark.parametrize("other", [{"seq": 1_000_000}, {"event_hash": "0" * 64}], ids=["later event", "other event"])
def test_a_journal_without_the_marked_event_is_an_old_copy(marked: Stand, other: dict[str, object]) -> None:
    marked.change(**other)
    restarted(marked)
    assert marked.started_at() == marked.world.clock.now()
    assert marked.journal.contains(marked.mark.seq, marked.mark.event_hash)
    marked.keeper.confirm()


def test_a_start_of_a_pass_restarts_them_and_goes_on(marked: Stand) -> None:
    marked.change(seq=1_000_000)
    assert marked.keeper.problem() is None
    assert marked.started_at() == marked.world.clock.now()
    marked.keeper.confirm()


def test_a_raised_mark_leaves_a_restart_to_the_next_pass(marked: Stand) -> None:
    """The wish that is being served may be one that the restart refuses."""
    marked.change(seq=1_000_000)
    before = marked.mark
    marked.start_clock()
    marked.keeper.raise_()
    assert marked.mark == before
    restarted(marked)


def test_an_old_copys_open_requests_are_refused_with_its_clocks(marked: Stand) -> None:
    wishes = [marked.ask(name) for name in ("ci", "web")]
    answered = marked.ask("db")
    assert marked.journal.withdraw(answered, at=marked.world.clock.now())
    marked.change(seq=1_000_000)
    restarted(marked)
    found = [marked.journal.request(wish) for wish in wishes]
    assert {(request.answer, request.reason) for request in found} == {("refused", Reason.JOURNAL_RESTORED)}
    assert marked.journal.request(answered).answer == "withdrawn"


def test_a_new_journals_requests_are_its_own(it: Stand) -> None:
    wish = it.ask("ci")
    it.world.vault.mark = Mark(version=7, instance="test", incarnation="lost", seq=9, event_hash="x")
    restarted(it)
    assert it.journal.request(wish).answer is None


# --- it is another's --------------------------------------------------------------------------------------------------


def test_a_new_journal_takes_over_the_mark_of_the_lost_one_once(it: Stand) -> None:
    it.start_clock()
    it.world.vault.mark = Mark(version=7, instance="test", incarnation="lost", seq=9, event_hash="x")
    it.world.clock.advance(DAY)
    restarted(it)
    assert it.started_at() == it.world.clock.now()
    assert (it.mark.version, it.mark.incarnation) == (8, it.journal.head().incarnation)


def test_a_second_deployment_of_the_same_name_stops_both_ways(marked: Stand) -> None:
    marked.change(incarnation="another")
    before = marked.mark
    with pytest.raises(StateError, match='instance "test" was written by another journal'):
        marked.keeper.confirm()
    assert marked.keeper.problem() is Reason.MARK_OF_ANOTHER_INSTANCE
    marked.start_clock()
    marked.keeper.raise_()
    with pytest.raises(StateError, match="another journal"):
        marked.keeper.refresh()
    assert marked.mark == before


@pytest.mark.parametrize("fresh", [True, False], ids=["a fresh journal", "a journal with a mark"])
def test_a_mark_of_another_name_is_never_taken_over(it: Stand, *, fresh: bool) -> None:
    if not fresh:
        it.start_clock()
        it.keeper.confirm()
    it.world.vault.mark = Mark(
        version=3, instance="other", incarnation=it.journal.head().incarnation, seq=1, event_hash="x"
    )
    with pytest.raises(StateError, match="another journal"):
        it.keeper.confirm()


# --- somebody writes it in between ------------------------------------------------------------------------------------


def _conflicts(it: Stand, times: int) -> Fault:
    return it.world.fault("vault.write_mark", error=ConflictError("somebody was faster"), times=times)


def test_a_mark_that_somebody_wrote_in_between_is_looked_at_again(marked: Stand) -> None:
    marked.start_clock()
    _conflicts(marked, 1)
    marked.keeper.confirm()
    assert not marked.journal.clock_event_since_mark()


def test_twice_in_a_row_is_too_often(marked: Stand) -> None:
    marked.start_clock()
    _conflicts(marked, 2)
    with pytest.raises(ConflictError, match="twice in a row"):
        marked.keeper.confirm()
    assert marked.journal.clock_event_since_mark()


def test_a_journal_that_cannot_be_written_is_no_conflict(marked: Stand) -> None:
    marked.start_clock()
    marked.world.fault("vault.write_mark", error=JournalError("disk full"))
    with pytest.raises(JournalError, match="disk full"):
        marked.keeper.confirm()


# --- it cannot be told ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["vault.read_mark", "vault.write_mark"])
def test_a_mark_that_cannot_be_reached_stops_what_needs_it_and_no_more(
    marked: Stand, call: str, log_lines: LogLines
) -> None:
    marked.start_clock()
    marked.world.fault(call, error=TemporaryError("sealed"), times=None)
    assert marked.keeper.problem() is None
    marked.keeper.raise_()
    assert [line["event"] for line in log_lines()] == ["mark.failed", "mark.failed"]
    for confirming in (marked.keeper.confirm, marked.keeper.refresh):
        with pytest.raises(Error, match="sealed"):
            confirming()
    assert marked.journal.clock_event_since_mark()


def test_a_stopping_process_is_told_at_the_start_of_a_pass_and_not_after_a_clock(marked: Stand) -> None:
    marked.start_clock()
    marked.world.fault("vault.read_mark", error=StoppingError("stopping"), times=None)
    marked.keeper.raise_()
    with pytest.raises(StoppingError, match="stopping"):
        marked.keeper.problem()


def test_in_observe_mode_the_mark_is_neither_read_nor_written() -> None:
    made = stand(enabled=False)
    made.start_clock()
    assert made.keeper.problem() is None
    made.keeper.raise_()
    made.keeper.refresh()
    assert made.world.counts["vault.read_mark"] == made.writes() == 0
    made.journal.close()


# --- on the world -----------------------------------------------------------------------------------------------------


def test_without_its_mark_nothing_is_retired_and_rotations_go_on() -> None:
    rig = Rig(policy(overlap=DAY))
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    rig.world.user(ACCOUNT, "web", age=100 * DAY)
    (old,) = rig.world.keys(ACCOUNT, "ci")
    assert rig.look("ci").published
    broken = rig.world.fault("vault.read_mark", error=TemporaryError("denied"), times=None)
    rig.world.clock.advance(2 * DAY)
    worked = rig.look("ci")
    assert worked.outcome is not None
    assert worked.outcome.rest.reason is Reason.MARK_NOT_WRITABLE
    assert rig.look("web").published
    broken.remove()
    rig.world.clock.advance(timedelta(hours=1))
    rig.settle("ci")
    assert rig.world.key(old.id).deleted
    rig.world.check_promises()


def test_a_deletion_decided_on_the_clocks_of_an_old_copy_is_given_up() -> None:
    """The mark could not be read when the pass began, and can when the key is to go."""
    rig = Rig(policy(overlap=DAY, quarantine=DAY))
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    (old,) = rig.world.keys(ACCOUNT, "ci")
    rig.settle("ci", until=lambda w: w.outcome is not None and w.outcome.state == State.QUARANTINE)
    rig.world.clock.advance(2 * DAY)
    assert rig.world.vault.mark is not None
    rig.world.vault.mark = replace(rig.world.vault.mark, seq=1_000_000)
    rig.world.fault("vault.read_mark", error=TemporaryError("sealed"))
    worked = rig.look("ci")
    assert worked.outcome is not None
    assert worked.outcome.rest.reason is Reason.JOURNAL_RESTORED
    assert not rig.world.key(old.id).deleted
    restarted_at = rig.world.clock.now()
    rig.settle("ci")
    assert rig.world.key(old.id).deleted
    assert rig.world.clock.now() - restarted_at >= DAY


def test_another_deployments_mark_stops_everything() -> None:
    rig = Rig(policy())
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    rig.world.user(ACCOUNT, "web", age=100 * DAY)
    assert rig.look("ci").published
    assert rig.world.vault.mark is not None
    rig.world.vault.mark = replace(rig.world.vault.mark, incarnation="another")
    creates = rig.world.counts["iam.create_access_key"]
    for name in ("ci", "web"):
        worked = rig.look(name)
        assert worked.outcome is not None
        assert worked.outcome.rest.reason is Reason.MARK_OF_ANOTHER_INSTANCE
    assert rig.world.counts["iam.create_access_key"] == creates
