"""The audit trail: hash-chained, append-only, and tied to the mark in Vault."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from rekeyd.adapters.journal import open_journal
from rekeyd.core.model import RetireWhy
from rekeyd.core.reasons import Reason
from rekeyd.errors import JournalError
from rekeyd.ports import ChainVerdict, Mark
from tests.unit.journal_stand import ACCOUNT, CI, DAY, NEW, OLD, OTHER_ACCOUNT, Stand, anchor, in_memory, user
from tests.world.clock import VirtualClock


@pytest.fixture
def stand() -> Iterator[Stand]:
    with in_memory() as stand:
        yield stand


def mark_of(stand: Stand) -> Mark:
    head = stand.journal.head()
    return Mark(version=1, instance="test", incarnation=head.incarnation, seq=head.seq, event_hash=head.event_hash)


def tamper(stand: Stand, statement: str) -> None:
    """As somebody with the file and some patience does it: the triggers go first."""
    with stand.journal._store.write() as conn:
        for trigger in ("event_never_updated", "event_never_deleted", "event_only_appended"):
            conn.execute(sa.text(f"DROP TRIGGER IF EXISTS {trigger}"))
        conn.execute(sa.text(statement))


def test_a_new_journal_has_a_head(stand: Stand) -> None:
    head = stand.journal.head()
    assert head.seq == 1
    assert len(head.incarnation) == 32
    assert stand.journal.contains(1, head.event_hash)


def test_every_journal_has_an_incarnation_of_its_own() -> None:
    heads = set()
    for _ in range(2):
        with open_journal("sqlite://", instance="test", clock=VirtualClock()) as journal:
            heads.add((journal.head().incarnation, journal.head().event_hash))
    assert len({incarnation for incarnation, _ in heads}) == 2
    assert len({digest for _, digest in heads}) == 2


def test_a_whole_rotation_verifies(stand: Stand) -> None:
    rotation_id = stand.publish()
    stand.change("deactivate")
    stand.change("delete")
    stand.account.close_rotation(CI, rotation_id, reason=Reason.ROTATION_COMPLETE, completed=True, at=stand.clock.now())
    assert stand.journal.verify() == ChainVerdict(events=11, broken_at=None)
    assert stand.events() == [
        "journal.created",
        "rotation.opened",
        "key.requested",
        "key.created",
        "key.publish_intended",
        "key.published",
        "key.deactivate_intended",
        "key.deactivated",
        "key.delete_intended",
        "key.deleted",
        "rotation.closed",
    ]


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("UPDATE event SET actor = 'user:nobody' WHERE seq = 3", 3),
        ("UPDATE event SET reason = NULL WHERE seq = 2", 2),
        ("UPDATE event SET detail = '{}' WHERE seq = 3", 3),
        ("UPDATE event SET detail = '{ }' WHERE seq = 4", 4),
        ("UPDATE event SET at = 'yesterday' WHERE seq = 5", 5),
        ("UPDATE event SET hash = 'abc' WHERE seq = 6", 6),
        ("DELETE FROM event WHERE seq = 4", 4),
        ("DELETE FROM event WHERE seq = 1", 1),
        ("UPDATE meta SET value = 'another' WHERE name = 'incarnation'", 1),
    ],
)
def test_tampering_breaks_the_chain_where_it_was_done(stand: Stand, statement: str, broken_at: int) -> None:
    stand.publish()
    tamper(stand, statement)
    assert stand.journal.verify().broken_at == broken_at


def test_rows_cut_off_the_end_are_missed_by_the_mark(stand: Stand) -> None:
    stand.publish()
    mark = mark_of(stand)
    assert stand.journal.contains(mark.seq, mark.event_hash)
    tamper(stand, "DELETE FROM event WHERE seq = (SELECT MAX(seq) FROM event)")
    assert stand.journal.verify().broken_at is None
    assert not stand.journal.contains(mark.seq, mark.event_hash)
    stand.journal.append("daemon.started", at=stand.clock.now(), actor="daemon")
    assert not stand.journal.contains(mark.seq, mark.event_hash)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE event SET actor = 'x' WHERE seq = 1", "audit events are never changed"),
        ("DELETE FROM event WHERE seq = 1", "audit events are never deleted"),
        (
            "INSERT OR REPLACE INTO event (seq, at, actor, event, detail, hash) VALUES (1, '', 'x', 'x', '{}', 'x')",
            "audit events are only appended",
        ),
    ],
)
def test_the_database_itself_refuses_to_change_an_event(stand: Stand, statement: str, message: str) -> None:
    with (
        pytest.raises(JournalError, match="refused a change") as caught,
        stand.journal._store.write() as conn,
    ):
        conn.execute(sa.text(statement))
    assert message in str(caught.value.__cause__)


def test_an_event_keeps_what_it_was_told(stand: Stand) -> None:
    seq = stand.journal.append(
        "brake.tried",
        at=stand.clock.now(),
        actor="user:ops",
        account_id=ACCOUNT,
        user_name="ci",
        reason=Reason.BRAKED,
        access_key_id=NEW,
        detail={"try": 1, "why": "canary", "nothing": None},
    )
    event = stand.journal.history(limit=1)[0]
    assert (event.seq, event.at, event.actor, event.account_id) == (seq, stand.clock.now(), "user:ops", ACCOUNT)
    assert (event.user_name, event.event, event.reason, event.access_key_id) == (
        "ci",
        "brake.tried",
        Reason.BRAKED,
        NEW,
    )
    assert event.detail == {"try": 1, "why": "canary", "nothing": None}
    assert event.hash == stand.journal.head().event_hash


def test_a_long_message_is_cut(stand: Stand) -> None:
    stand.journal.append("job.failed", at=stand.clock.now(), actor="daemon", detail={"error": "x" * 10_000})
    assert stand.journal.history(limit=1)[0].detail == {"error": "x" * 500}


def test_history_selects_by_account_user_time_and_number(stand: Stand) -> None:
    stand.open()
    stand.clock.advance(DAY)
    since = stand.clock.now()
    other = stand.take(OTHER_ACCOUNT)
    web = user("web", "AIDAWEB", OTHER_ACCOUNT)
    other.failed(web, error="no", retry_at=since, counts_for_brake=False, at=since)
    other.succeeded(web)
    history = stand.journal.history
    assert [e.event for e in history(account_id=ACCOUNT)] == ["rotation.opened"]
    assert [e.event for e in history(user_name="WEB")] == ["principal.failed", "principal.recovered"]
    assert [e.event for e in history(since=since)] == ["principal.failed", "principal.recovered"]
    assert [e.event for e in history(limit=2)] == ["principal.failed", "principal.recovered"]
    assert history(limit=0) == ()


def test_a_mark_is_remembered(stand: Stand) -> None:
    assert stand.journal.last_mark() is None
    mark = mark_of(stand)
    stand.journal.marked(mark)
    stand.journal.marked(replace(mark, version=2))
    assert stand.journal.last_mark() == replace(mark, version=2)


def test_only_what_moves_a_clock_asks_for_a_new_mark(stand: Stand) -> None:
    rotation_id = stand.create()
    assert not stand.journal.clock_event_since_mark()
    stand.record_published(rotation_id, NEW)
    assert stand.journal.clock_event_since_mark()
    stand.journal.marked(mark_of(stand))
    assert not stand.journal.clock_event_since_mark()
    stand.account.proven(CI, anchor=anchor(NEW, 4), at=stand.clock.now())
    assert not stand.journal.clock_event_since_mark()
    stand.change("deactivate")
    assert stand.journal.clock_event_since_mark()


@pytest.mark.parametrize("mover", ["retirement", "inactive", "reactivation", "settled", "restart", "restart all"])
def test_every_mover_of_a_clock_asks_for_a_new_mark(stand: Stand, mover: str) -> None:
    now = stand.clock.now()
    stand.publish()
    stand.account.change_intended(CI, OLD, verb="reactivate", reason=Reason.ROLLBACK, at=now)
    stand.journal.marked(mark_of(stand))
    match mover:
        case "retirement":
            stand.account.start_retirement(
                CI, OLD, why=RetireWhy.SPARE, reason=Reason.SPARE_KEY, anchor=anchor(NEW), at=now
            )
        case "inactive":
            stand.account.seen_inactive(CI, OLD, reason=Reason.SEEN_INACTIVE, at=now)
        case "reactivation":
            stand.account.change_done(CI, OLD, verb="reactivate", at=now)
        case "settled":
            stand.account.settle_pending(CI, OLD, verb="reactivate", happened=True, at=now)
        case "restart":
            stand.account.restart_clocks(CI, reason="broken", anchor=anchor(NEW), at=now)
        case _:
            stand.journal.restart_all_clocks(reason="lost", at=now)
    assert stand.journal.clock_event_since_mark()


def test_pruned_history_verifies_from_its_checkpoint(stand: Stand) -> None:
    rotation_id = stand.publish()
    stand.account.close_rotation(CI, rotation_id, reason=Reason.REPAIR, completed=False, at=stand.clock.now())
    first = stand.journal.head()
    stand.clock.advance(DAY)
    stand.journal.append("daemon.started", at=stand.clock.now(), actor="daemon")
    stand.journal.marked(mark_of(stand))
    gone = stand.journal.prune(before=stand.clock.now(), actor="daemon", at=stand.clock.now())
    assert gone == first.seq
    assert stand.events() == ["daemon.started", "history.pruned"]
    assert stand.journal.verify() == ChainVerdict(events=2, broken_at=None)
    assert stand.journal.contains(first.seq, first.event_hash)
    assert stand.journal.prune(before=stand.clock.now(), actor="daemon", at=stand.clock.now()) == 0


def test_nothing_of_an_open_rotation_is_pruned(stand: Stand) -> None:
    stand.open()
    stand.clock.advance(DAY)
    stand.journal.marked(mark_of(stand))
    assert stand.journal.prune(before=stand.clock.now(), actor="daemon", at=stand.clock.now()) == 1
    assert stand.events() == ["rotation.opened", "history.pruned"]


def test_nothing_is_pruned_past_the_mark(stand: Stand) -> None:
    for _ in range(3):
        stand.journal.append("daemon.started", at=stand.clock.now(), actor="daemon")
    later = stand.clock.now() + timedelta(seconds=1)
    assert stand.journal.prune(before=later, actor="daemon", at=later) == 0
    stand.journal.marked(replace(mark_of(stand), seq=2))
    assert stand.journal.prune(before=later, actor="daemon", at=later) == 2
