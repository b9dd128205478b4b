"""The outbox: what each channel has not taken yet, and how the channel does.

A batch is put together when it is first sent, and keeps its id and content until the channel has taken it. One holder
at a time sends to a channel; the end of that holder frees the channel, and its batch is sent again with the same id.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rekeyd.adapters import journal_schema as t
from rekeyd.adapters.journal_chain import JournalPart, Recorded, append_event
from rekeyd.core.model import AccessKeyId, AccountId, UserId
from rekeyd.core.notice import Notice
from rekeyd.ports import Alarm, Announcement, Batch, ChannelState, OwnerNotice

# A message about more than this is read by nobody; the rest follows in the next one.
_MOST = 1000
_TIMES = frozenset({"first_seen_at", "last_seen_at", "notified_at", "resolved_at", "acknowledged_until"})


class OutboxPart(JournalPart):
    """Announcements by channel."""

    def has_mail(self, channel: str, *, at: datetime, ready_before: datetime) -> bool:
        o = t.outbox.c
        ready = sa.select(o.id).where(o.channel == channel, sa.or_(o.batch.is_not(None), o.at <= ready_before))
        with self._store.read() as conn:
            if conn.execute(ready.limit(1)).first() is None:
                return False
            row = conn.execute(sa.select(t.channel).where(t.channel.c.name == channel)).first()
        return row is None or (row.busy is None and (row.retry_at is None or row.retry_at <= at))

    def take_batch(self, channel: str, *, at: datetime, ready_before: datetime) -> Batch | None:
        c, o = t.channel.c, t.outbox.c
        with self._store.write() as conn:
            row = conn.execute(sa.select(t.channel).where(c.name == channel)).first()
            if row is None:
                conn.execute(sa.insert(t.channel).values(name=channel, failures=0, error=""))
            elif row.busy is not None or (row.retry_at is not None and row.retry_at > at):
                return None
            batch_id = row.batch if row is not None else None
            if batch_id is None:
                batch_id = secrets.token_hex(8)
                ready = (
                    sa.select(o.id)
                    .where(o.channel == channel, o.batch.is_(None), o.at <= ready_before)
                    .order_by(o.id)
                    .limit(_MOST)
                )
                marked = conn.execute(
                    sa.update(t.outbox).where(o.id.in_(ready.scalar_subquery())).values(batch=batch_id)
                )
                if not marked.rowcount:
                    return None
            conn.execute(sa.update(t.channel).where(c.name == channel).values(batch=batch_id, busy=self.holder))
            rows = conn.execute(sa.select(t.outbox).where(o.batch == batch_id).order_by(o.id)).all()
        told = tuple(Announcement(kind=Notice(row.kind), alarm=alarm_from(row.alarm), at=row.at) for row in rows)
        return Batch(id=batch_id, channel=channel, announcements=told)

    def batch_sent(self, batch: Batch, *, at: datetime) -> None:
        with self._store.write() as conn:
            if not conn.execute(sa.delete(t.outbox).where(t.outbox.c.batch == batch.id)).rowcount:
                return
            conn.execute(
                sa.update(t.channel)
                .where(t.channel.c.name == batch.channel)
                .values(batch=None, busy=None, failures=0, failing_since=None, retry_at=None, error="")
            )
            append_event(
                conn,
                Recorded.NOTIFICATION_SENT,
                at=at,
                actor="daemon",
                detail={"channel": batch.channel, "message": batch.id, "announcements": len(batch.announcements)},
            )

    def batch_failed(
        self, batch: Batch, *, error: str, retry_at: datetime, at: datetime, given_up: bool = False
    ) -> None:
        c = t.channel.c
        with self._store.write() as conn:
            conn.execute(
                sa.update(t.channel)
                .where(c.name == batch.channel)
                .values(
                    busy=None,
                    failures=c.failures + 1,
                    failing_since=sa.func.coalesce(c.failing_since, sa.bindparam("at", at, t.UtcDateTime())),
                    retry_at=retry_at,
                    error=error[: t.MAX_TEXT],
                    **({"batch": None} if given_up else {}),
                )
            )
            if given_up:
                conn.execute(sa.delete(t.outbox).where(t.outbox.c.batch == batch.id))
                append_event(
                    conn,
                    Recorded.NOTIFICATION_DROPPED,
                    at=at,
                    actor="daemon",
                    detail={"channel": batch.channel, "message": batch.id, "announcements": len(batch.announcements)},
                )

    def channel_states(self) -> tuple[ChannelState, ...]:
        waiting = (
            sa.select(t.outbox.c.channel, sa.func.count().label("n")).group_by(t.outbox.c.channel).subquery("waiting")
        )
        wanted = sa.select(t.channel, waiting.c.n).outerjoin(waiting, waiting.c.channel == t.channel.c.name)
        with self._store.read() as conn:
            rows = conn.execute(wanted.order_by(t.channel.c.name)).all()
        return tuple(
            ChannelState(
                name=row.name,
                waiting=row.n or 0,
                failures=row.failures,
                failing_since=row.failing_since,
                retry_at=row.retry_at,
                error=row.error,
            )
            for row in rows
        )

    def drop_channels(self, keep: Sequence[str], *, at: datetime) -> int:
        def strange_in(column: sa.Column[str]) -> sa.ColumnElement[bool]:
            return sa.and_(column.not_in(keep), sa.not_(_of_ways(column, keep)))

        strange = (
            sa.select(t.channel.c.name)
            .where(strange_in(t.channel.c.name))
            .union_all(sa.select(t.outbox.c.channel).where(strange_in(t.outbox.c.channel)))
        )
        with self._store.read() as conn:
            if conn.execute(strange.limit(1)).first() is None:
                return 0
        with self._store.write() as conn:
            gone = conn.execute(sa.delete(t.outbox).where(strange_in(t.outbox.c.channel))).rowcount
            conn.execute(sa.delete(t.channel).where(strange_in(t.channel.c.name)))
            if gone:
                append_event(conn, Recorded.NOTIFICATION_DROPPED, at=at, actor="daemon", detail={"announcements": gone})
            return gone

    def owner_notices(self, account_id: AccountId) -> frozenset[tuple[UserId, str, str]]:
        c = t.owner_notice.c
        wanted = sa.select(c.user_id, c.reason, c.key_id).where(c.account_id == account_id)
        with self._store.read() as conn:
            return frozenset((row.user_id, row.reason, row.key_id) for row in conn.execute(wanted))

    def tell_owner(self, notice: OwnerNotice, channels: Sequence[str], *, at: datetime) -> bool:
        c, alarm = t.owner_notice.c, notice.announcement.alarm
        marks = {
            "account_id": alarm.account_id,
            "user_id": notice.user_id,
            "reason": alarm.reason,
            "key_id": notice.key,
        }
        with self._store.write() as conn:
            known = sa.select(c.told_at).where(*(c[name] == value for name, value in marks.items()))
            if conn.execute(known).first() is not None:
                return False
            owner = alarm.owner or ""
            conn.execute(sa.insert(t.owner_notice).values(**marks, owner=owner[: t.MAX_TEXT], told_at=at))
            put_into_outbox(conn, [notice.announcement], channels)
            append_event(
                conn,
                Recorded.OWNER_TOLD if channels else Recorded.OWNER_UNTOLD,
                at=at,
                actor="daemon",
                account_id=alarm.account_id,
                user_name=alarm.principal,
                access_key_id=AccessKeyId(notice.key),
                detail={"owner": owner[: t.MAX_TEXT], "about": alarm.reason},
            )
            return True

    def ready_channels(self, *, at: datetime, ready_before: datetime) -> tuple[str, ...]:
        o, c = t.outbox.c, t.channel.c
        wanted = (
            sa.select(o.channel)
            .distinct()
            .outerjoin_from(t.outbox, t.channel, c.name == o.channel)
            .where(
                sa.or_(o.batch.is_not(None), o.at <= ready_before),
                c.busy.is_(None),
                sa.or_(c.retry_at.is_(None), c.retry_at <= at),
            )
            .order_by(o.channel)
        )
        with self._store.read() as conn:
            return tuple(conn.execute(wanted).scalars())

    def drop_owner_mail(self, ways: Sequence[str], *, before: datetime, at: datetime) -> int:
        o, c = t.outbox.c, t.channel.c
        failing = sa.select(c.name).where(_of_ways(c.name, ways), c.busy.is_(None), c.failing_since <= before)
        with self._store.read() as conn:
            names = tuple(conn.execute(failing).scalars())
        if not names:
            return 0
        with self._store.write() as conn:
            gone = conn.execute(sa.delete(t.outbox).where(o.channel.in_(names))).rowcount
            conn.execute(sa.delete(t.channel).where(c.name.in_(names)))
            append_event(conn, Recorded.NOTIFICATION_DROPPED, at=at, actor="daemon", detail={"announcements": gone})
            return gone


def _of_ways(column: sa.Column[str], ways: Sequence[str]) -> sa.ColumnElement[bool]:
    """Channels to owners."""
    return sa.or_(sa.false(), *(column.startswith(f"{way}:", autoescape=True) for way in ways))


def put_into_outbox(conn: sa.Connection, announcements: Sequence[Announcement], channels: Sequence[str]) -> None:
    """Inside the caller's transaction."""
    rows = [
        {"channel": channel, "kind": told.kind.value, "at": told.at, "alarm": _alarm_text(told.alarm)}
        for told in announcements
        for channel in channels
        # What is said about a channel is said on the others.
        if told.alarm.principal != channel or told.alarm.reason != "channel_failing"
    ]
    if rows:
        conn.execute(sa.insert(t.outbox), rows)


def alarm_from(text: str) -> Alarm:
    said: Mapping[str, Any] = json.loads(text)
    values: dict[str, Any] = {
        name: datetime.fromisoformat(value) if name in _TIMES and value is not None else value
        for name, value in said.items()
    }
    return Alarm(**{**values, "cis": tuple(values["cis"])})


def _alarm_text(alarm: Alarm) -> str:
    values: dict[str, object] = {}
    for each in fields(Alarm):
        value = getattr(alarm, each.name)
        values[each.name] = t.time_text(value) if isinstance(value, datetime) else value
    return t.canonical(values)
