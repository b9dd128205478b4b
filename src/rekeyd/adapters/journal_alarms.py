"""Alarms and the brake: what must survive a restart to be told once, again, and at its end."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rekeyd.adapters import journal_schema as t
from rekeyd.adapters.journal_chain import JournalPart, Recorded, append_event
from rekeyd.adapters.journal_outbox import put_into_outbox
from rekeyd.core.model import AccountId, UserId
from rekeyd.core.notice import Notice
from rekeyd.core.reasons import Severity
from rekeyd.ports import Alarm, Announcement, Brake, ExposedKey

_FLEET = "fleet"
_ACKNOWLEDGEMENT = ("acknowledged_until", "acknowledged_by", "acknowledged_because")


class AlarmPart(JournalPart):
    """Alarms by fingerprint; brakes by account, and one of the fleet."""

    def alarms(self, *, open_only: bool = True) -> tuple[Alarm, ...]:
        wanted = sa.select(t.alarm).order_by(t.alarm.c.first_seen_at, t.alarm.c.fingerprint)
        if open_only:
            wanted = wanted.where(t.alarm.c.resolved_at.is_(None))
        with self._store.read() as conn:
            rows = conn.execute(wanted).mappings().all()
        return tuple(_alarm(row) for row in rows)

    def save_alarm(self, alarm: Alarm) -> None:
        """Its beginning and its end are audited; its repetitions are not."""
        with self._store.write() as conn:
            _save(conn, alarm)

    def announce(self, announcements: Sequence[Announcement], channels: Sequence[str], *, at: datetime) -> None:  # noqa: ARG002
        """The announcements carry their own times; `at` is when they are put down."""
        with self._store.write() as conn:
            for told in announcements:
                _save(conn, told.alarm)
            put_into_outbox(conn, announcements, channels)

    def acknowledge(
        self, fingerprint: str, *, until: datetime, by: str, because: str, channels: Sequence[str], at: datetime
    ) -> Alarm | None:
        c = t.alarm.c
        with self._store.write() as conn:
            known = conn.execute(
                sa.update(t.alarm)
                .where(c.fingerprint == fingerprint, c.resolved_at.is_(None))
                .values(acknowledged_until=until, acknowledged_by=by, acknowledged_because=because[: t.MAX_TEXT])
            ).rowcount
            if not known:
                return None
            row = conn.execute(sa.select(t.alarm).where(c.fingerprint == fingerprint)).mappings().one()
            alarm = _alarm(row)
            append_event(
                conn,
                Recorded.ALARM_ACKNOWLEDGED,
                at=at,
                actor=by,
                account_id=alarm.account_id,
                user_name=alarm.principal,
                detail={
                    "severity": alarm.severity,
                    "reason": alarm.reason,
                    "fingerprint": fingerprint,
                    "until": t.time_text(until),
                    "because": because,
                },
            )
            put_into_outbox(conn, [Announcement(kind=Notice.ACKNOWLEDGED, alarm=alarm, at=at)], channels)
            return alarm

    def tell_exposed(self, exposed: ExposedKey) -> None:
        """Again: the newest word counts."""
        with self._store.write() as conn:
            _expose(conn, exposed)

    def tell_exposed_once(self, exposed: ExposedKey, *, since: datetime) -> bool:
        with self._store.write() as conn:
            c = t.exposed_key.c
            before = conn.execute(sa.select(t.exposed_key).where(c.key_id == exposed.key_id)).first()
            if before is not None and (before.over_at is None or before.told_at >= since):
                return False
            _expose(conn, exposed)
            return True

    def exposed_keys(self, account_id: AccountId, *, open_only: bool = True) -> tuple[ExposedKey, ...]:
        c = t.exposed_key.c
        wanted = sa.select(t.exposed_key).where(c.account_id == account_id).order_by(c.key_id)
        if open_only:
            wanted = wanted.where(c.over_at.is_(None))
        with self._store.read() as conn:
            rows = conn.execute(wanted).mappings().all()
        return tuple(ExposedKey(**row) for row in rows)

    def exposure_over(self, exposed: ExposedKey, *, at: datetime) -> None:
        with self._store.write() as conn:
            conn.execute(sa.update(t.exposed_key).where(t.exposed_key.c.key_id == exposed.key_id).values(over_at=at))
            append_event(
                conn,
                Recorded.EXPOSURE_ENDED,
                at=at,
                actor="daemon",
                account_id=exposed.account_id,
                user_name=exposed.user_name,
                access_key_id=exposed.key_id,
            )

    def brakes(self) -> tuple[Brake, ...]:
        with self._store.read() as conn:
            rows = conn.execute(_BRAKES).all()
        return tuple(
            Brake(
                account_id=None if row.scope == _FLEET else row.scope,
                engaged_at=row.engaged_at,
                retry_at=row.retry_at,
                failures=row.failures,
                detail=row.detail,
            )
            for row in rows
        )

    def engage_brake(self, brake: Brake, *, at: datetime) -> None:
        """Also moves the `retry_at` of one that is engaged."""
        with self._store.write() as conn:
            t.put(
                conn,
                t.brake,
                {"scope": brake.account_id or _FLEET},
                {
                    "engaged_at": brake.engaged_at,
                    "retry_at": brake.retry_at,
                    "failures": brake.failures,
                    "detail": brake.detail[: t.MAX_TEXT],
                },
            )
            append_event(
                conn,
                Recorded.BRAKE_ENGAGED,
                at=at,
                actor="daemon",
                account_id=brake.account_id,
                detail={"failures": brake.failures, "detail": brake.detail},
            )

    def release_brake(self, account_id: AccountId | None, *, actor: str, at: datetime) -> bool:
        """None: the fleet's. False: it was not engaged. The account's failures in a row are forgotten with it."""
        with self._store.write() as conn:
            if not conn.execute(sa.delete(t.brake).where(t.brake.c.scope == (account_id or _FLEET))).rowcount:
                return False
            if account_id is not None:
                conn.execute(sa.delete(t.issue_failure).where(t.issue_failure.c.account_id == account_id))
            append_event(conn, Recorded.BRAKE_RELEASED, at=at, actor=actor, account_id=account_id)
            return True

    def note_issue_result(self, account_id: AccountId, user_id: UserId, *, failed: bool) -> int:
        c = t.issue_failure.c
        with self._store.write() as conn:
            if not failed:
                conn.execute(sa.delete(t.issue_failure).where(c.account_id == account_id))
                return 0
            t.put(conn, t.issue_failure, {"account_id": account_id, "user_id": user_id}, {})
            return conn.execute(
                sa.select(sa.func.count()).select_from(t.issue_failure).where(c.account_id == account_id)
            ).scalar_one()


def _expose(conn: sa.Connection, exposed: ExposedKey) -> None:
    values = {
        "account_id": exposed.account_id,
        "user_name": exposed.user_name,
        "told_by": exposed.told_by,
        "told_at": exposed.told_at,
        "because": exposed.because[: t.MAX_TEXT],
        "over_at": None,
    }
    t.put(conn, t.exposed_key, {"key_id": exposed.key_id}, values)
    append_event(
        conn,
        Recorded.EXPOSURE_TOLD,
        at=exposed.told_at,
        actor=exposed.told_by,
        account_id=exposed.account_id,
        user_name=exposed.user_name,
        access_key_id=exposed.key_id,
        detail={"because": exposed.because},
    )


_BRAKES = sa.select(t.brake).order_by(t.brake.c.scope)


def _alarm(row: Mapping[Any, Any]) -> Alarm:
    return Alarm(**{**row, "cis": tuple(json.loads(row["cis"]))})


def _save(conn: sa.Connection, alarm: Alarm) -> None:
    before = conn.execute(sa.select(t.alarm).where(t.alarm.c.fingerprint == alarm.fingerprint)).first()
    was_open = before is not None and before.resolved_at is None
    is_open = alarm.resolved_at is None
    kept = ("fingerprint", "cis", *_ACKNOWLEDGEMENT)
    values = {c.name: getattr(alarm, c.name) for c in t.alarm.c if c.name not in kept}
    worse = before is not None and _RANKS[alarm.severity] > _RANKS[before.severity]
    if worse or not was_open:
        # Somebody acknowledged another alarm than this. In all other cases a person may have spoken since it was read.
        values |= dict.fromkeys(_ACKNOWLEDGEMENT)
    t.put(conn, t.alarm, {"fingerprint": alarm.fingerprint}, {**values, "cis": t.canonical(list(alarm.cis))})
    if was_open == is_open:
        return
    append_event(
        conn,
        Recorded.ALARM_RAISED if is_open else Recorded.ALARM_RESOLVED,
        at=alarm.first_seen_at if alarm.resolved_at is None else alarm.resolved_at,
        actor="daemon",
        account_id=alarm.account_id,
        user_name=alarm.principal,
        detail={"severity": alarm.severity, "reason": alarm.reason, "fingerprint": alarm.fingerprint},
    )


_RANKS = {severity.value: -rank for rank, severity in enumerate(Severity)}
"""Worse is more."""
