"""The audit trail: rows that are only appended, each hashed over its predecessor's hash and its own canonical JSON.

    hash = sha256(previous hash + "\\n" + canonical JSON of the row without its hash)

The first row's predecessor is the journal's incarnation, a random id: a journal made anew cannot be taken for the old
one. Whoever can write the file can also rewrite the whole chain, so its head is kept in Vault as well (the mark).
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from rekeyd.adapters import journal_schema as t
from rekeyd.adapters.journal_sqlite import SqliteStore
from rekeyd.core.model import AccessKeyId, AccountId, RotationId
from rekeyd.core.reasons import Reason
from rekeyd.ports import ChainVerdict, Clock, Head, JournalEvent, Mark

Detail = Mapping[str, str | int | None]


class Recorded(StrEnum):
    """What the journal itself records; other events come in by `append`. Names that are also logged are the same."""

    JOURNAL_CREATED = "journal.created"
    JOURNAL_RESTORED = "journal.restored"
    HISTORY_PRUNED = "history.pruned"
    HOLDER_DIED = "holder.died"
    ROTATION_ASKED = "rotation.asked"
    ROTATION_WITHDRAWN = "rotation.withdrawn"
    REQUEST_SERVED = "request.served"
    ROTATION_OPENED = "rotation.opened"
    ROLLBACK_OPENED = "rollback.opened"
    ROTATION_CLOSED = "rotation.closed"
    ROLLBACK_CLOSED = "rollback.closed"
    KEY_REQUESTED = "key.requested"
    KEY_CREATED = "key.created"
    KEY_NOT_CREATED = "key.not_created"
    KEY_LOST_ANSWER = "key.lost_answer"
    KEY_PUBLISH_INTENDED = "key.publish_intended"
    KEY_PUBLISHED = "key.published"
    KEY_PROVEN = "key.proven"
    KEY_MOVE_INTENDED = "key.move_intended"
    KEY_MOVED = "key.moved"
    LEFT_PLACE_EMPTIED = "left_place.emptied"
    VERSION_BURNED = "version.burned"
    RETIREMENT_STARTED = "retirement.started"
    RETIREMENT_ENDED = "retirement.ended"
    QUARANTINE_STARTED = "quarantine.started"
    QUARANTINE_VOIDED = "quarantine.voided"
    KEY_DEACTIVATE_INTENDED = "key.deactivate_intended"
    KEY_REACTIVATE_INTENDED = "key.reactivate_intended"
    KEY_DELETE_INTENDED = "key.delete_intended"
    KEY_DEACTIVATED = "key.deactivated"
    KEY_REACTIVATED = "key.reactivated"
    KEY_DELETED = "key.deleted"
    KEY_CHANGE_FAILED = "key.change_failed"
    KEY_CHANGE_SETTLED = "key.change_settled"
    CLOCKS_RESTARTED = "clocks.restarted"
    HELD_KEY_DIED = "held_key.died"
    HELD_KEY_RECOVERED = "held_key.recovered"
    PRINCIPAL_REFUSED = "principal.refused"
    PRINCIPAL_HELD = "principal.held"
    PRINCIPAL_FAILED = "principal.failed"
    PRINCIPAL_RECOVERED = "principal.recovered"
    PRINCIPAL_FORGOTTEN = "principal.forgotten"
    BRAKE_ENGAGED = "brake.engaged"
    BRAKE_RELEASED = "brake.released"
    ALARM_RAISED = "alarm.raised"
    ALARM_RESOLVED = "alarm.resolved"
    ALARM_ACKNOWLEDGED = "alarm.acknowledged"
    NOTIFICATION_SENT = "notification.sent"
    NOTIFICATION_DROPPED = "notification.dropped"
    OWNER_TOLD = "owner.told"
    OWNER_UNTOLD = "owner.untold"
    EXPOSURE_TOLD = "exposure.told"
    EXPOSURE_ENDED = "exposure.ended"


def meta_value(conn: sa.Connection, name: str) -> str | None:
    value: str | None = conn.execute(_META, {"name": name}).scalar()
    return value


def set_meta(conn: sa.Connection, name: str, value: str) -> None:
    t.put(conn, t.meta, {"name": name}, {"value": value})


def append_event(
    conn: sa.Connection,
    event: str,
    *,
    at: datetime,
    actor: str,
    account_id: AccountId | None = None,
    user_name: str | None = None,
    rotation_id: RotationId | None = None,
    access_key_id: AccessKeyId | None = None,
    reason: Reason | None = None,
    detail: Detail | None = None,
    clock: bool = False,
) -> int:
    """`clock`: it starts or voids a clock, so that the mark in Vault must be raised."""
    seq, previous = _tip(conn)
    row: dict[str, Any] = {
        "seq": seq + 1,
        "at": t.time_text(at),
        "actor": actor,
        "account_id": account_id,
        "user_name": user_name,
        "rotation_id": rotation_id,
        "event": str(event),
        "access_key_id": access_key_id,
        "reason": None if reason is None else reason.value,
        "detail": t.canonical({name: _short(value) for name, value in (detail or {}).items()}),
    }
    digest = _hash(previous, row)
    conn.execute(_INSERT_EVENT, {**row, "at": at, "hash": digest})
    if clock:
        set_meta(conn, "clock_seq", str(seq + 1))
    return seq + 1


def _tip(conn: sa.Connection) -> tuple[int, str]:
    """Number and hash of the newest row, which the next one follows."""
    row = conn.execute(_NEWEST).first()
    if row is not None:
        return row.seq, row.hash
    return _beginning(conn)


def _beginning(conn: sa.Connection) -> tuple[int, str]:
    """What the oldest kept row follows: the checkpoint of what was pruned, else the incarnation."""
    seq = meta_value(conn, "checkpoint_seq")
    if seq is not None:
        return int(seq), meta_value(conn, "checkpoint_hash") or ""
    return 0, meta_value(conn, "incarnation") or ""


def _hash(previous: str, row: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{previous}\n{t.canonical(row)}".encode()).hexdigest()


def _short(value: str | int | None) -> str | int | None:
    return value[: t.MAX_TEXT] if isinstance(value, str) else value


_META = sa.select(t.meta.c.value).where(t.meta.c.name == sa.bindparam("name"))
_NEWEST = sa.select(t.event.c.seq, t.event.c.hash).order_by(t.event.c.seq.desc()).limit(1)
_HASH = sa.select(t.event.c.hash).where(t.event.c.seq == sa.bindparam("seq"))
_INSERT_EVENT = sa.insert(t.event)
_RAW_EVENTS = sa.select(
    *(sa.type_coerce(c, sa.Text).label(c.name) if c.name == "at" else c for c in t.event.c)
).order_by(t.event.c.seq)


class JournalPart:
    """What every part of the journal stands on."""

    def __init__(self, store: SqliteStore, clock: Clock, *, instance: str, holder: str) -> None:
        self._store = store
        self._clock = clock
        self.instance = instance
        self.holder = holder


class ChainPart(JournalPart):
    """The chain, the mark, and the clocks of everybody."""

    def head(self) -> Head:
        with self._store.read() as conn:
            seq, digest = _tip(conn)
            return Head(incarnation=meta_value(conn, "incarnation") or "", seq=seq, event_hash=digest)

    def contains(self, seq: int, event_hash: str) -> bool:
        with self._store.read() as conn:
            if meta_value(conn, "checkpoint_seq") == str(seq):
                return meta_value(conn, "checkpoint_hash") == event_hash
            found = conn.execute(_HASH, {"seq": seq}).scalar()
            return found == event_hash

    def clock_event_since_mark(self) -> bool:
        with self._store.read() as conn:
            last = meta_value(conn, "clock_seq")
            marked = meta_value(conn, "mark")
        if last is None:
            return False
        return marked is None or int(last) > int(json.loads(marked)["seq"])

    def marked(self, mark: Mark) -> None:
        text = t.canonical(
            {
                "version": mark.version,
                "instance": mark.instance,
                "incarnation": mark.incarnation,
                "seq": mark.seq,
                "event_hash": mark.event_hash,
            }
        )
        with self._store.write() as conn:
            set_meta(conn, "mark", text)

    def last_mark(self) -> Mark | None:
        with self._store.read() as conn:
            text = meta_value(conn, "mark")
        if text is None:
            return None
        parts: dict[str, Any] = json.loads(text)
        return Mark(**parts)

    def restart_all_clocks(self, *, reason: str, at: datetime) -> None:
        with self._store.write() as conn:
            set_meta(conn, "clocks_not_before", max(t.time_text(at), meta_value(conn, "clocks_not_before") or ""))
            append_event(conn, Recorded.JOURNAL_RESTORED, at=at, actor="daemon", detail={"reason": reason}, clock=True)

    def append(
        self,
        event: str,
        *,
        at: datetime,
        actor: str,
        account_id: AccountId | None = None,
        user_name: str | None = None,
        reason: Reason | None = None,
        access_key_id: AccessKeyId | None = None,
        detail: Detail | None = None,
    ) -> int:
        with self._store.write() as conn:
            return append_event(
                conn,
                event,
                at=at,
                actor=actor,
                account_id=account_id,
                user_name=user_name,
                reason=reason,
                access_key_id=access_key_id,
                detail=detail,
            )

    def history(
        self,
        *,
        account_id: AccountId | None = None,
        user_name: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> tuple[JournalEvent, ...]:
        wanted = sa.select(t.event)
        if account_id is not None:
            wanted = wanted.where(t.event.c.account_id == account_id)
        if user_name is not None:
            wanted = wanted.where(sa.func.lower(t.event.c.user_name) == user_name.lower())
        if since is not None:
            wanted = wanted.where(t.event.c.at >= since)
        if limit is not None:
            wanted = wanted.limit(limit)
        with self._store.read() as conn:
            rows = conn.execute(wanted.order_by(t.event.c.seq.desc())).all()
        return tuple(_event(row) for row in reversed(rows))

    def event_counts(self, *, after: int = 0) -> tuple[int, Mapping[str, int]]:
        """The newest event's number, and how many events of each name are newer than number `after`."""
        c = t.event.c
        wanted = sa.select(c.event, sa.func.count().label("n")).where(c.seq > after).group_by(c.event)
        with self._store.read() as conn:
            seq, _ = _tip(conn)
            return seq, {row.event: row.n for row in conn.execute(wanted)}

    def verify(self) -> ChainVerdict:
        with self._store.read() as conn:
            expected, previous = _beginning(conn)
            count = 0
            for row in conn.execution_options(yield_per=1000).execute(_RAW_EVENTS).mappings():
                fields = {name: value for name, value in row.items() if name != "hash"}
                expected += 1
                if row["seq"] != expected or row["hash"] != _hash(previous, fields):
                    return ChainVerdict(events=count, broken_at=expected)
                previous = row["hash"]
                count += 1
        # The tip's own number is vouched for by the mark in Vault: rows cut off the end leave a chain that is whole.
        return ChainVerdict(events=count, broken_at=None)

    def prune(self, *, before: datetime, actor: str, at: datetime) -> int:
        """Forget events older than `before`, leaving the last one's number and hash as a checkpoint; returns how many.

        Never an event of a rotation that is open, and never past the mark: Vault names that event.
        """
        with self._store.write() as conn:
            last = self._last_prunable(conn, before)
            first, _ = _beginning(conn)
            if last is None or last <= first:
                return 0
            digest = conn.execute(sa.select(t.event.c.hash).where(t.event.c.seq == last)).scalar_one()
            set_meta(conn, "checkpoint_seq", str(last))
            set_meta(conn, "checkpoint_hash", digest)
            gone = conn.execute(sa.delete(t.event).where(t.event.c.seq <= last)).rowcount
            append_event(conn, Recorded.HISTORY_PRUNED, at=at, actor=actor, detail={"events": gone, "checkpoint": last})
            return gone

    def _last_prunable(self, conn: sa.Connection, before: datetime) -> int | None:
        mark = meta_value(conn, "mark")
        if mark is None:
            return None
        still_open = sa.select(t.rotation.c.id).where(t.rotation.c.closed_at.is_(None))
        keep: int | None = conn.execute(
            sa.select(sa.func.min(t.event.c.seq)).where(
                sa.or_(t.event.c.at >= before, t.event.c.rotation_id.in_(still_open))
            )
        ).scalar()
        marked = int(json.loads(mark)["seq"])
        return marked if keep is None else min(marked, keep - 1)


def _event(row: sa.Row[Any]) -> JournalEvent:
    return JournalEvent(
        seq=row.seq,
        at=row.at,
        actor=row.actor,
        account_id=row.account_id,
        user_name=row.user_name,
        rotation_id=row.rotation_id,
        event=row.event,
        access_key_id=row.access_key_id,
        reason=None if row.reason is None else Reason(row.reason),
        detail=json.loads(row.detail),
        hash=row.hash,
    )
