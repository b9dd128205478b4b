"""What every step in an account stands on: the lease is checked inside the transaction of the step itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rekeyd.adapters import journal_schema as t
from rekeyd.adapters.journal_chain import Detail, Recorded, append_event
from rekeyd.adapters.journal_known import known_of
from rekeyd.adapters.journal_owners import HolderAlive
from rekeyd.adapters.journal_schema import is_user
from rekeyd.adapters.journal_sqlite import SqliteStore
from rekeyd.core.model import AccessKeyId, Principal, RetireWhy, RotationId
from rekeyd.core.reasons import Reason
from rekeyd.errors import JournalError, LeaseLostError
from rekeyd.ports import Anchored, Clock, Known, Lease


class LeasedJournal:
    """Transactions of a holder."""

    def __init__(
        self, store: SqliteStore, clock: Clock, *, lease: Lease, actor: str, holder_alive: HolderAlive
    ) -> None:
        self.lease = lease
        self._store = store
        self._clock = clock
        self._actor = actor
        self._holder_alive = holder_alive

    def known(self, principal: Principal) -> Known:
        with self._owned_view() as conn:
            return known_of(conn, principal, now=self._clock.now(), alive=self._alive)

    def failures(self, principal: Principal) -> tuple[int, datetime | None]:
        user = t.user_values(principal)
        with self._owned_view() as conn:
            row = conn.execute(t.select_of(t.principal, *user), t.key_values(user)).first()
        return (0, None) if row is None else (row.failures, row.retry_at)

    @contextmanager
    def _owned(self) -> Iterator[sa.Connection]:
        with self._store.write() as conn:
            self._check_lease(conn)
            yield conn

    @contextmanager
    def _owned_view(self) -> Iterator[sa.Connection]:
        with self._store.read() as conn:
            self._check_lease(conn)
            yield conn

    def _alive(self, holder: str) -> bool:
        return holder == self.lease.holder or self._holder_alive(holder)

    def _check_lease(self, conn: sa.Connection) -> None:
        row = conn.execute(_LEASE, {"account": self.lease.account_id}).first()
        if row is not None and row.holder == self.lease.holder and row.epoch == self.lease.epoch:
            return
        raise LeaseLostError(
            f"the lease of account {self.lease.account_id} is no longer held by {self.lease.holder}",
            hint="the step is given up and looked at again at the next pass",
        )

    def _record(
        self,
        conn: sa.Connection,
        event: Recorded,
        principal: Principal,
        *,
        at: datetime,
        rotation_id: RotationId | None = None,
        access_key_id: AccessKeyId | None = None,
        reason: Reason | None = None,
        detail: Detail | None = None,
        clock: bool = False,
    ) -> None:
        append_event(
            conn,
            event,
            at=at,
            actor=self._actor,
            account_id=principal.account_id,
            user_name=principal.user_name,
            rotation_id=rotation_id,
            access_key_id=access_key_id,
            reason=reason,
            detail=detail,
            clock=clock,
        )

    def _principal_row(self, conn: sa.Connection, principal: Principal) -> sa.Row[Any]:
        """The user's row; made at the first fact about the user."""
        if principal.account_id != self.lease.account_id:
            raise JournalError(f"{principal.label} is not of account {self.lease.account_id}, which the lease is for")
        user = t.user_values(principal)
        wanted, parameters = t.select_of(t.principal, *user), t.key_values(user)
        row = conn.execute(wanted, parameters).first()
        if row is None:
            conn.execute(
                t.insert_of(t.principal),
                {
                    **user,
                    "user_name": principal.user_name,
                    "name_folded": t.folded(principal.user_name),
                    "managed": False,
                    "failures": 0,
                },
            )
            return conn.execute(wanted, parameters).one()
        if not row.managed and row.anchor_version is None and row.user_name != principal.user_name:
            # A name matters once something was done under it, or Vault held a key of the user at the place that the
            # name gives: consumers read there. Until then the newest one is right.
            self._set_principal(
                conn, principal, user_name=principal.user_name, name_folded=t.folded(principal.user_name)
            )
        return row

    def _set_principal(self, conn: sa.Connection, principal: Principal, **values: object) -> None:
        user = t.user_values(principal)
        conn.execute(t.update_of(t.principal, *user), {**t.key_values(user), **values})

    def _set_managed(self, conn: sa.Connection, principal: Principal, **values: object) -> None:
        """Something is done for this user under its present name."""
        self._principal_row(conn, principal)
        self._set_principal(
            conn,
            principal,
            managed=True,
            user_name=principal.user_name,
            name_folded=t.folded(principal.user_name),
            **values,
        )

    def _note_change(self, conn: sa.Connection, principal: Principal, at: datetime) -> None:
        row = self._principal_row(conn, principal)
        if row.last_change_at is None or row.last_change_at < at:
            self._set_principal(conn, principal, last_change_at=at)

    def _key_row(self, conn: sa.Connection, principal: Principal, key_id: AccessKeyId) -> sa.Row[Any]:
        key = {**t.user_values(principal), "key_id": key_id}
        wanted, parameters = t.select_of(t.key_fact, *key), t.key_values(key)
        row = conn.execute(wanted, parameters).first()
        if row is not None:
            return row
        conn.execute(t.insert_of(t.key_fact), {**key, "published": False, "deactivated_by_us": False})
        return conn.execute(wanted, parameters).one()

    def _set_key(self, conn: sa.Connection, principal: Principal, key_id: AccessKeyId, **values: object) -> None:
        self._key_row(conn, principal, key_id)
        key = {**t.user_values(principal), "key_id": key_id}
        conn.execute(t.update_of(t.key_fact, *key), {**t.key_values(key), **values})

    def _retire(
        self,
        conn: sa.Connection,
        principal: Principal,
        key_id: AccessKeyId,
        *,
        why: RetireWhy,
        reason: Reason | None,
        at: datetime,
    ) -> None:
        """The key's clocks start at `at`, whatever they said before."""
        self._set_key(
            conn,
            principal,
            key_id,
            retire_why=why.value,
            retire_reason=None if reason is None else reason.value,
            started_at=at,
            deactivated_at=None,
            deletion_sent_at=None,
            gone_at=None,
        )

    def _move_anchor(self, conn: sa.Connection, principal: Principal, anchor: Anchored, *, at: datetime) -> None:
        """Vault names another key than when the facts were last checked: their clocks start again, later and never
        sooner (SCALE.md D6)."""
        row = self._principal_row(conn, principal)
        if row.anchor_version is not None and row.anchor_key_id != anchor.access_key_id:
            self._restart(conn, principal, at=at)
        self._set_anchor(conn, principal, anchor)

    def _set_anchor(self, conn: sa.Connection, principal: Principal, anchor: Anchored) -> None:
        values = {
            "anchor_key_id": anchor.access_key_id,
            "anchor_version": anchor.version,
            "anchor_created_at": anchor.version_created_at,
            "anchor_place": None if anchor.place is None else t.place_text(anchor.place),
        }
        old = {f"old_{name}": value for name, value in values.items()}
        conn.execute(_SET_ANCHOR, {**t.key_values(t.user_values(principal)), **old, **values})

    def _restart(self, conn: sa.Connection, principal: Principal, *, at: datetime) -> None:
        ours = is_user(t.key_fact, principal)
        conn.execute(sa.update(t.key_fact).where(ours, t.key_fact.c.started_at < at).values(started_at=at))
        conn.execute(sa.update(t.key_fact).where(ours, t.key_fact.c.deactivated_at < at).values(deactivated_at=at))
        self._set_principal(conn, principal, proven_version=None)

    def _begin_requests(self, conn: sa.Connection, principal: Principal, *, all_kinds: bool) -> None:
        """Something irreversible goes out for this user: a person's open wish cannot be withdrawn any more."""
        special = sa.or_(
            t.request.c.emergency.is_(True),
            t.request.c.rollback.is_(True),
            t.request.c.replace_key_id.is_not(None),
        )
        conn.execute(
            sa.update(t.request)
            .where(is_open_request(principal), sa.true() if all_kinds else special)
            .values(begun=True)
        )


def is_open_request(principal: Principal) -> sa.ColumnElement[bool]:
    return sa.and_(
        t.request.c.account_id == principal.account_id,
        t.request.c.name_folded == t.folded(principal.user_name),
        t.request.c.answer.is_(None),
    )


# An anchor that stays where it is costs no write: every look sets it.
_SET_ANCHOR = t.update_of(t.principal, "account_id", "user_id").where(
    sa.not_(
        sa.and_(
            *(
                t.principal.c[name].is_not_distinct_from(sa.bindparam(f"old_{name}"))
                for name in ("anchor_key_id", "anchor_version", "anchor_created_at", "anchor_place")
            )
        )
    )
)
_LEASE = (
    sa.select(t.account.c.holder, t.account.c.epoch)
    .where(t.account.c.account_id == sa.bindparam("account"))
    .with_for_update()
)
