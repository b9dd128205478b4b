"""Alarms and the brake: what must survive a restart to be told once, again, and at its end."""

import json
from datetime import datetime

import sqlalchemy as sa

from rekeyd.adapters import journal_schema as t
from rekeyd.adapters.journal_chain import JournalPart, Recorded, append_event
from rekeyd.core.model import AccountId, UserId
from rekeyd.ports import Alarm, Brake

_FLEET = "fleet"


class AlarmPart(JournalPart):
    """Alarms by fingerprint; brakes by account, and one of the fleet."""

    def alarms(self, *, open_only: bool = True) -> tuple[Alarm, ...]:
        wanted = sa.select(t.alarm).order_by(t.alarm.c.first_seen_at, t.alarm.c.fingerprint)
        if open_only:
            wanted = wanted.where(t.alarm.c.resolved_at.is_(None))
        with self._store.read() as conn:
            rows = [dict(row) for row in conn.execute(wanted).mappings()]
        return tuple(Alarm(**{**row, "cis": tuple(json.loads(row["cis"]))}) for row in rows)

    def save_alarm(self, alarm: Alarm) -> None:
        """Its beginning and its end are audited; its repetitions are not."""
        with self._store.write() as conn:
            before = conn.execute(sa.select(t.alarm).where(t.alarm.c.fingerprint == alarm.fingerprint)).first()
            was_open = before is not None and before.resolved_at is None
            is_open = alarm.resolved_at is None
            values = {c.name: getattr(alarm, c.name) for c in t.alarm.c if c.name not in ("fingerprint", "cis")}
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

    def brakes(self) -> tuple[Brake, ...]:
        with self._store.read() as conn:
            rows = conn.execute(sa.select(t.brake).order_by(t.brake.c.scope)).all()
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
