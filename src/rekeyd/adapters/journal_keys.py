"""A key's way out, and what else is learned about a principal: retirement, changes of a key's status, proofs, failures.

A change outside is journalled before and after. Between the two it is *pending*: whoever finds it later cannot tell
whether it happened, and must wait until the call can no longer arrive.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rekeyd.adapters import journal_schema as t
from rekeyd.adapters.journal_chain import Recorded
from rekeyd.adapters.journal_leased import LeasedJournal
from rekeyd.adapters.journal_schema import is_user
from rekeyd.core.model import AccessKeyId, Principal, RetireWhy
from rekeyd.core.reasons import Reason
from rekeyd.errors import JournalError
from rekeyd.ports import Anchored

_INTENDED = {
    "deactivate": Recorded.KEY_DEACTIVATE_INTENDED,
    "reactivate": Recorded.KEY_REACTIVATE_INTENDED,
    "delete": Recorded.KEY_DELETE_INTENDED,
}
_DONE = {
    "deactivate": Recorded.KEY_DEACTIVATED,
    "reactivate": Recorded.KEY_REACTIVATED,
    "delete": Recorded.KEY_DELETED,
}


class KeySteps(LeasedJournal):
    """The writing half of retirements and of everything about a principal that is not a rotation."""

    def start_retirement(
        self,
        principal: Principal,
        key_id: AccessKeyId,
        *,
        why: RetireWhy,
        reason: Reason,
        anchor: Anchored,
        at: datetime,
    ) -> None:
        with self._owned() as conn:
            self._move_anchor(conn, principal, anchor, at=at)
            self._retire(conn, principal, key_id, why=why, reason=reason, at=at)
            self._record(
                conn,
                Recorded.RETIREMENT_STARTED,
                principal,
                at=at,
                access_key_id=key_id,
                reason=reason,
                detail={"why": why.value, "version": anchor.version},
                clock=True,
            )

    def end_retirement(self, principal: Principal, key_id: AccessKeyId, *, reason: Reason, at: datetime) -> None:
        """The key is gone by another hand, or nobody retires it any more: its clocks end."""
        with self._owned() as conn:
            self._retiring(conn, principal, key_id)
            self._set_key(conn, principal, key_id, gone_at=at)
            self._record(
                conn, Recorded.RETIREMENT_ENDED, principal, at=at, access_key_id=key_id, reason=reason, clock=True
            )

    def seen_inactive(self, principal: Principal, key_id: AccessKeyId, *, reason: Reason, at: datetime) -> None:
        with self._owned() as conn:
            self._retiring(conn, principal, key_id)
            self._set_key(conn, principal, key_id, deactivated_at=at, retire_reason=reason.value)
            self._record(
                conn, Recorded.QUARANTINE_STARTED, principal, at=at, access_key_id=key_id, reason=reason, clock=True
            )

    def seen_active(self, principal: Principal, key_id: AccessKeyId, *, at: datetime) -> None:
        with self._owned() as conn:
            self._retiring(conn, principal, key_id)
            self._set_key(
                conn,
                principal,
                key_id,
                deactivated_at=None,
                deactivated_by_us=False,
                deletion_sent_at=None,
                retire_reason=Reason.REACTIVATED.value,
            )
            self._record(
                conn,
                Recorded.QUARANTINE_VOIDED,
                principal,
                at=at,
                access_key_id=key_id,
                reason=Reason.REACTIVATED,
                clock=True,
            )

    def change_intended(
        self, principal: Principal, key_id: AccessKeyId, *, verb: str, reason: Reason, at: datetime
    ) -> None:
        event = _named(_INTENDED, verb)
        with self._owned() as conn:
            before = self._key_row(conn, principal, key_id)
            conn.execute(
                sa.insert(t.pending_change).values(
                    account_id=principal.account_id,
                    user_id=principal.user_id,
                    key_id=key_id,
                    verb=verb,
                    holder=self.lease.holder,
                    sent_at=at,
                    before_deactivated_by_us=before.deactivated_by_us,
                    before_deactivation_sent_at=before.deactivation_sent_at,
                    before_deletion_sent_at=before.deletion_sent_at,
                )
            )
            if verb == "deactivate":
                # Before the call, for the case that nobody is left to say that it happened.
                self._set_key(conn, principal, key_id, deactivated_by_us=True, deactivation_sent_at=at)
            if verb == "delete":
                self._set_key(conn, principal, key_id, deletion_sent_at=at)
            self._note_change(conn, principal, at)
            self._begin_requests(conn, principal, all_kinds=False)
            self._record(conn, event, principal, at=at, access_key_id=key_id, reason=reason)

    def change_done(self, principal: Principal, key_id: AccessKeyId, *, verb: str, at: datetime) -> None:
        event = _named(_DONE, verb)
        with self._owned() as conn:
            # Only our own: what a predecessor left pending may still arrive.
            self._take_pending(conn, principal, key_id, verb, holder=self.lease.holder)
            self._happened(conn, principal, key_id, verb, at=at)
            self._note_change(conn, principal, at)
            self._record(conn, event, principal, at=at, access_key_id=key_id, clock=True)

    def change_failed(self, principal: Principal, key_id: AccessKeyId, *, verb: str, detail: str, at: datetime) -> None:
        _named(_DONE, verb)
        with self._owned() as conn:
            rows = self._take_pending(conn, principal, key_id, verb, holder=self.lease.holder, newest_only=True)
            self._did_not_happen(conn, principal, key_id, rows[0])
            self._record(
                conn,
                Recorded.KEY_CHANGE_FAILED,
                principal,
                at=at,
                access_key_id=key_id,
                detail={"verb": verb, "error": detail},
            )

    def settle_pending(
        self, principal: Principal, key_id: AccessKeyId, *, verb: str, happened: bool, at: datetime
    ) -> None:
        _named(_DONE, verb)
        with self._owned() as conn:
            rows = self._take_pending(conn, principal, key_id, verb, holder=None)
            if happened:
                self._happened(conn, principal, key_id, verb, at=at)
            else:
                self._did_not_happen(conn, principal, key_id, rows[0])
            self._record(
                conn,
                Recorded.KEY_CHANGE_SETTLED,
                principal,
                at=at,
                access_key_id=key_id,
                detail={"verb": verb, "happened": int(happened)},
                clock=True,
            )

    def proven(self, principal: Principal, *, anchor: Anchored, at: datetime) -> None:
        with self._owned() as conn:
            self._move_anchor(conn, principal, anchor, at=at)
            self._set_principal(conn, principal, proven_version=anchor.version)
            self._record(
                conn,
                Recorded.KEY_PROVEN,
                principal,
                at=at,
                access_key_id=anchor.access_key_id,
                detail={"version": anchor.version},
            )

    def reanchor(self, principal: Principal, *, anchor: Anchored) -> None:
        with self._owned() as conn:
            row = self._principal_row(conn, principal)
            if row.anchor_version is not None and row.anchor_key_id != anchor.access_key_id:
                raise JournalError(
                    f"the facts about {principal.label} stand on {row.anchor_key_id}, but Vault names "
                    f"{anchor.access_key_id}: their clocks must start again"
                )
            self._set_anchor(conn, principal, anchor)

    def restart_clocks(self, principal: Principal, *, reason: str, anchor: Anchored, at: datetime) -> None:
        with self._owned() as conn:
            self._principal_row(conn, principal)
            self._restart(conn, principal, at=at)
            self._set_anchor(conn, principal, anchor)
            self._record(
                conn,
                Recorded.CLOCKS_RESTARTED,
                principal,
                at=at,
                access_key_id=anchor.access_key_id,
                detail={"reason": reason, "version": anchor.version},
                clock=True,
            )

    def held_dead(self, principal: Principal, *, since: datetime | None) -> None:
        with self._owned() as conn:
            if since is None and not self._is_known(conn, principal):
                return
            row = self._principal_row(conn, principal)
            if row.held_dead_since == since:
                return
            self._set_principal(conn, principal, held_dead_since=since)
            self._record(
                conn,
                Recorded.HELD_KEY_RECOVERED if since is None else Recorded.HELD_KEY_DIED,
                principal,
                at=self._clock.now(),
                detail=None if since is None else {"since": t.time_text(since)},
            )

    def failed(
        self, principal: Principal, *, error: str, retry_at: datetime, counts_for_brake: bool, at: datetime
    ) -> int:
        with self._owned() as conn:
            failures: int = self._principal_row(conn, principal).failures + 1
            self._set_principal(conn, principal, failures=failures, retry_at=retry_at)
            self._record(
                conn,
                Recorded.PRINCIPAL_FAILED,
                principal,
                at=at,
                detail={"error": error, "failures": failures, "counts_for_brake": int(counts_for_brake)},
            )
            return failures

    def succeeded(self, principal: Principal) -> None:
        with self._owned() as conn:
            if not self._is_known(conn, principal):
                return
            row = self._principal_row(conn, principal)
            if row.failures == 0 and row.retry_at is None:
                return
            self._set_principal(conn, principal, failures=0, retry_at=None)
            self._record(
                conn,
                Recorded.PRINCIPAL_RECOVERED,
                principal,
                at=self._clock.now(),
                detail={"failures": row.failures},
            )

    def forget(self, principal: Principal, *, reason: str, at: datetime) -> None:
        """The user no longer exists, or a person says that a re-created one may be managed anew: its open rotation is
        closed, its retirements and pending changes end, its intents are dropped and its name is free. Audit rows stay.
        """
        with self._owned() as conn:
            self._principal_row(conn, principal)
            self._set_principal(conn, principal, name_folded=None, managed=False, failures=0, retry_at=None)
            conn.execute(
                sa.update(t.rotation)
                .where(is_user(t.rotation, principal), t.rotation.c.closed_at.is_(None))
                .values(closed_at=at, completed=False)
            )
            conn.execute(
                sa.update(t.key_fact)
                .where(is_user(t.key_fact, principal), t.key_fact.c.gone_at.is_(None))
                .values(gone_at=at)
            )
            conn.execute(
                sa.update(t.create_intent)
                .where(is_user(t.create_intent, principal), t.create_intent.c.resolved_at.is_(None))
                .values(resolved_at=at, outcome="forgotten")
            )
            for table in (t.pending_change, t.publication, t.principal_status):
                conn.execute(sa.delete(table).where(is_user(table, principal)))
            self._record(
                conn,
                Recorded.PRINCIPAL_FORGOTTEN,
                principal,
                at=at,
                detail={"reason": reason, "user_id": principal.user_id},
                clock=True,
            )

    def _is_known(self, conn: sa.Connection, principal: Principal) -> bool:
        return conn.execute(sa.select(sa.literal(1)).where(is_user(t.principal, principal))).first() is not None

    def _retiring(self, conn: sa.Connection, principal: Principal, key_id: AccessKeyId) -> None:
        if self._key_row(conn, principal, key_id).retire_why is None:
            raise JournalError(f"{key_id} of {principal.label} is not retiring")

    def _take_pending(
        self,
        conn: sa.Connection,
        principal: Principal,
        key_id: AccessKeyId,
        verb: str,
        *,
        holder: str | None,
        newest_only: bool = False,
    ) -> list[sa.Row[Any]]:
        """Remove and return the pending changes, oldest first. JournalError when there is none."""
        c = t.pending_change.c
        wanted = sa.select(t.pending_change).where(
            is_user(t.pending_change, principal), c.key_id == key_id, c.verb == verb
        )
        if holder is not None:
            wanted = wanted.where(c.holder == holder)
        rows = list(conn.execute(wanted.order_by(c.id)).all())
        if newest_only:
            rows = rows[-1:]
        if not rows:
            raise JournalError(f"nothing says that rekeyd meant to {verb} {key_id} of {principal.label}")
        conn.execute(sa.delete(t.pending_change).where(c.id.in_([row.id for row in rows])))
        return rows

    def _happened(
        self, conn: sa.Connection, principal: Principal, key_id: AccessKeyId, verb: str, *, at: datetime
    ) -> None:
        match verb:
            case "deactivate":
                self._set_key(conn, principal, key_id, deactivated_by_us=True, deactivated_at=at)
            case "reactivate":
                self._set_key(
                    conn,
                    principal,
                    key_id,
                    deactivated_by_us=False,
                    deactivation_sent_at=None,
                    deactivated_at=None,
                    deletion_sent_at=None,
                )
            case _:
                self._set_key(conn, principal, key_id, gone_at=at)

    def _did_not_happen(
        self, conn: sa.Connection, principal: Principal, key_id: AccessKeyId, intent: sa.Row[Any]
    ) -> None:
        if intent.verb == "deactivate":
            self._set_key(
                conn,
                principal,
                key_id,
                deactivated_by_us=intent.before_deactivated_by_us,
                deactivation_sent_at=intent.before_deactivation_sent_at,
            )
        if intent.verb == "delete":
            self._set_key(conn, principal, key_id, deletion_sent_at=intent.before_deletion_sent_at)


def _named(events: dict[str, Recorded], verb: str) -> Recorded:
    event = events.get(verb)
    if event is None:
        raise JournalError(f"{verb!r} is no change of a key: deactivate, reactivate or delete")
    return event
