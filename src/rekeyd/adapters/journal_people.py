"""What people ask for, and what they are shown: requests, statuses, and the counts that a pass starts from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa

from rekeyd.adapters import journal_schema as t
from rekeyd.adapters.journal_chain import JournalPart, Recorded, append_event
from rekeyd.adapters.journal_known import INTENTS_KEPT, is_unresolved, retirement_from
from rekeyd.core.model import AccessKeyId, AccountId, Asked, Place, Retirement, UserId
from rekeyd.core.reasons import Reason
from rekeyd.core.state import State
from rekeyd.errors import NotFoundError
from rekeyd.ports import AccountStatus, ExposedKey, PrincipalStatus, Request


class PeoplePart(JournalPart):
    """Requests and statuses; none of them needs a lease."""

    def ask(self, account_id: AccountId, user_name: str, asked: Asked) -> int:
        with self._store.write() as conn:
            return _ask(conn, account_id, user_name, asked)

    def ask_for_exposed(self, exposed: ExposedKey, *, by: str, at: datetime, again_after: timedelta) -> int | None:
        """Judged and asked in one transaction, so that two processes never ask twice."""
        c = t.request.c
        emergencies = sa.select(t.request).where(
            c.account_id == exposed.account_id,
            c.name_folded == t.folded(exposed.user_name),
            c.emergency.is_(True),
        )
        with self._store.write() as conn:
            rows = conn.execute(emergencies).all()
            # An emergency that is still open will replace this key too, whoever asked for it.
            if any(row.answer is None for row in rows):
                return None
            since = [row for row in rows if row.asked_at >= exposed.told_at]
            if any(row.answer == "published" or row.answered_at + again_after > at for row in since):
                return None
            return _ask(conn, exposed.account_id, exposed.user_name, Asked(by=by, at=at, emergency=True))

    def requests(self, account_id: AccountId | None = None, *, open_only: bool = True) -> tuple[Request, ...]:
        wanted = _requests(of_account=account_id is not None, open_only=open_only)
        with self._store.read() as conn:
            return tuple(_request(row) for row in conn.execute(wanted, {"account": account_id}))

    def request(self, request_id: int) -> Request:
        with self._store.read() as conn:
            return _request(self._request_row(conn, request_id))

    def answer(self, request_id: int, answer: str, *, reason: Reason | None, at: datetime) -> None:
        """The first answer stays."""
        with self._store.write() as conn:
            row = self._request_row(conn, request_id)
            if row.answer is None:
                self._answer(conn, row, answer, reason=reason, actor="daemon", at=at)

    def refuse_requests(self, *, reason: Reason, at: datetime) -> None:
        with self._store.write() as conn:
            for row in conn.execute(_requests(of_account=False, open_only=True)).all():
                self._answer(conn, row, "refused", reason=reason, actor="daemon", at=at)

    def withdraw(self, request_id: int, *, at: datetime) -> bool:
        with self._store.write() as conn:
            row = self._request_row(conn, request_id)
            if row.answer is not None or row.begun:
                return False
            self._answer(conn, row, "withdrawn", reason=None, actor=row.asked_by, at=at)
            return True

    def save_status(self, status: PrincipalStatus, *, actor: str = "daemon") -> None:
        self.save_statuses((status,), actor=actor)

    def save_statuses(self, statuses: Sequence[PrincipalStatus], *, actor: str = "daemon") -> None:
        """In one transaction: a drift look sees thousands of users."""
        with self._store.write() as conn:
            for status in statuses:
                values = {name: getattr(status, name) for name in _STATUS}
                keys = {name: values.pop(name) for name in ("account_id", "user_id")}
                _record_refusal(conn, status, keys, actor=actor)
                t.put(conn, t.principal_status, keys, {**values, "reason": status.reason.value})

    def drop_status(self, account_id: AccountId, user_ids: Sequence[UserId]) -> None:
        c = t.principal_status.c
        with self._store.write() as conn:
            for user_id in user_ids:
                conn.execute(sa.delete(t.principal_status).where(c.account_id == account_id, c.user_id == user_id))

    def statuses(self, account_id: AccountId | None = None) -> tuple[PrincipalStatus, ...]:
        c = t.principal_status.c
        wanted = sa.select(t.principal_status).order_by(c.account_id, c.user_name, c.user_id)
        if account_id is not None:
            wanted = wanted.where(c.account_id == account_id)
        with self._store.read() as conn:
            rows = [dict(row) for row in conn.execute(wanted).mappings()]
        return tuple(PrincipalStatus(**{**row, "reason": Reason(row["reason"])}) for row in rows)

    def next_looks(self) -> Mapping[AccountId, datetime]:
        """By account, when its first principal can go on by itself; nothing for an account where none waits."""
        c = t.principal_status.c
        wanted = sa.select(c.account_id, sa.func.min(c.next_at).label("next_at")).group_by(c.account_id)
        with self._store.read() as conn:
            return {row.account_id: row.next_at for row in conn.execute(wanted) if row.next_at is not None}

    def save_account(self, status: AccountStatus) -> None:
        values = asdict(status)
        with self._store.write() as conn:
            t.put(conn, t.account_status, {"account_id": values.pop("account_id")}, values)

    def account_statuses(self) -> tuple[AccountStatus, ...]:
        with self._store.read() as conn:
            rows = conn.execute(sa.select(t.account_status).order_by(t.account_status.c.account_id)).mappings()
            return tuple(AccountStatus(**row) for row in rows)

    def open_users(self, account_id: AccountId) -> Mapping[UserId, str]:
        open_rotation = sa.select(t.rotation.c.user_id).where(
            t.rotation.c.account_id == account_id, t.rotation.c.closed_at.is_(None)
        )
        retiring = sa.select(t.key_fact.c.user_id).where(
            t.key_fact.c.account_id == account_id,
            t.key_fact.c.retire_why.is_not(None),
            t.key_fact.c.gone_at.is_(None),
        )
        unresolved = (
            sa.select(t.create_intent.c.user_id)
            .join(t.rotation, t.rotation.c.id == t.create_intent.c.rotation_id)
            .where(t.create_intent.c.account_id == account_id, is_unresolved(self._clock.now() - INTENTS_KEPT))
        )
        pending = sa.select(t.pending_change.c.user_id).where(t.pending_change.c.account_id == account_id)
        wanted = sa.select(t.principal.c.user_id, t.principal.c.user_name).where(
            t.principal.c.account_id == account_id,
            t.principal.c.user_id.in_(sa.union(open_rotation, retiring, unresolved, pending)),
        )
        with self._store.read() as conn:
            return {row.user_id: row.user_name for row in conn.execute(wanted)}

    def retirements(self, account_id: AccountId) -> Mapping[tuple[UserId, AccessKeyId], Retirement]:
        c = t.key_fact.c
        wanted = sa.select(t.key_fact).where(c.account_id == account_id, c.retire_why.is_not(None), c.gone_at.is_(None))
        with self._store.read() as conn:
            return {(row.user_id, row.key_id): retirement_from(conn, row) for row in conn.execute(wanted).all()}

    def rotations_opened_since(self, at: datetime) -> int:
        with self._store.read() as conn:
            return conn.execute(
                sa.select(sa.func.count()).select_from(t.rotation).where(t.rotation.c.opened_at >= at)
            ).scalar_one()

    def publications(self) -> Mapping[tuple[AccountId, UserId], Place]:
        p = t.publication.c
        with self._store.read() as conn:
            rows = conn.execute(sa.select(p.account_id, p.user_id, p.place))
            return {(row.account_id, row.user_id): t.place_from(row.place) for row in rows}

    def _request_row(self, conn: sa.Connection, request_id: int) -> sa.Row[Any]:
        row = conn.execute(t.select_of(t.request, "id"), t.key_values({"id": request_id})).first()
        if row is None:
            raise NotFoundError(f"there is no request {request_id}")
        return row

    def _answer(
        self,
        conn: sa.Connection,
        row: sa.Row[Any],
        answer: str,
        *,
        reason: Reason | None,
        actor: str,
        at: datetime,
    ) -> None:
        conn.execute(
            sa.update(t.request)
            .where(t.request.c.id == row.id)
            .values(answer=answer, reason=None if reason is None else reason.value, answered_at=at)
        )
        append_event(
            conn,
            Recorded.ROTATION_WITHDRAWN if answer == "withdrawn" else Recorded.REQUEST_SERVED,
            at=at,
            actor=actor,
            account_id=row.account_id,
            user_name=row.user_name,
            reason=reason,
            detail={"request": row.id, "answer": answer},
        )


def _record_refusal(conn: sa.Connection, status: PrincipalStatus, keys: Mapping[str, object], *, actor: str) -> None:
    """Before the status is saved: every look finds the same refusal again, and only a new one is news."""
    # A step that failed is recorded where it failed.
    if status.reason.severity is None or status.reason is Reason.STEP_FAILED:
        return
    before = conn.execute(t.select_of(t.principal_status, *keys), t.key_values(keys)).first()
    if before is not None and all(getattr(before, name) == getattr(status, name) for name in _REFUSAL):
        return
    append_event(
        conn,
        Recorded.PRINCIPAL_HELD if status.state == State.ON_HOLD else Recorded.PRINCIPAL_REFUSED,
        at=status.looked_at,
        actor=actor,
        account_id=status.account_id,
        user_name=status.user_name,
        access_key_id=status.old_access_key_id,
        reason=status.reason,
        detail={"message": status.message},
    )


def _ask(conn: sa.Connection, account_id: AccountId, user_name: str, asked: Asked) -> int:
    request_id: int = conn.execute(
        sa.insert(t.request)
        .values(
            account_id=account_id,
            user_name=user_name,
            name_folded=t.folded(user_name),
            asked_by=asked.by,
            asked_at=asked.at,
            emergency=asked.emergency,
            rollback=asked.rollback,
            replace_key_id=asked.replace,
            begun=False,
        )
        .returning(t.request.c.id)
    ).scalar_one()
    append_event(
        conn,
        Recorded.ROTATION_ASKED,
        at=asked.at,
        actor=asked.by,
        account_id=account_id,
        user_name=user_name,
        access_key_id=asked.replace,
        detail={
            "request": request_id,
            "emergency": int(asked.emergency),
            "rollback": int(asked.rollback),
        },
    )
    return request_id


# What makes a refusal another one. Its message counts days.
_REFUSAL = ("state", "reason", "held_access_key_id", "old_access_key_id")

# `asdict` would copy every value.
_STATUS = tuple(each.name for each in fields(PrincipalStatus))


@cache
def _requests(*, of_account: bool, open_only: bool) -> sa.Select[Any]:
    c = t.request.c
    wanted = sa.select(t.request).order_by(c.emergency.desc(), c.asked_at, c.id)
    if of_account:
        wanted = wanted.where(c.account_id == sa.bindparam("account"))
    return wanted.where(c.answer.is_(None)) if open_only else wanted


def _request(row: sa.Row[Any]) -> Request:
    return Request(
        id=row.id,
        account_id=row.account_id,
        user_name=row.user_name,
        asked=Asked(
            by=row.asked_by,
            at=row.asked_at,
            emergency=row.emergency,
            rollback=row.rollback,
            replace=row.replace_key_id,
        ),
        answer=row.answer,
        reason=None if row.reason is None else Reason(row.reason),
        begun=row.begun,
    )
