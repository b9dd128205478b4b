"""A rotation's steps: opened, creating, created, publishing, published, closed.

A step out of order is refused with JournalError: it would mean that the world and the journal tell different stories,
and then nothing may go on.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rekeyd.adapters import journal_schema as t
from rekeyd.adapters.journal_chain import Recorded
from rekeyd.adapters.journal_known import rotation_from
from rekeyd.adapters.journal_leased import LeasedJournal, is_open_request
from rekeyd.adapters.journal_schema import is_user
from rekeyd.core.model import (
    AccessKeyId,
    IssueState,
    Place,
    Principal,
    RetireWhy,
    Rotation,
    RotationId,
    RotationKind,
)
from rekeyd.core.reasons import Reason
from rekeyd.errors import JournalError
from rekeyd.ports import Anchored


class RotationSteps(LeasedJournal):
    """The writing half of a rotation."""

    def open_rotation(
        self,
        principal: Principal,
        *,
        kind: RotationKind,
        reason: Reason,
        asked_by: str | None,
        old_key_id: AccessKeyId | None,
        target: AccessKeyId | None,
        at: datetime,
        old_key_created_at: datetime | None = None,
    ) -> Rotation:
        with self._owned() as conn:
            self._set_managed(conn, principal)
            is_open = sa.and_(is_user(t.rotation, principal), t.rotation.c.closed_at.is_(None))
            other = conn.execute(sa.select(t.rotation.c.id).where(is_open)).scalar()
            if other is not None:
                raise JournalError(f"{principal.label} has an open rotation already: {other}")
            rotation_id = RotationId(secrets.token_hex(8))
            conn.execute(
                sa.insert(t.rotation).values(
                    id=rotation_id,
                    account_id=principal.account_id,
                    user_id=principal.user_id,
                    user_name=principal.user_name,
                    kind=kind.value,
                    reason=reason.value,
                    asked_by=asked_by,
                    state=IssueState.OPENED.value,
                    old_key_id=old_key_id,
                    new_key_id=target,
                    opened_at=at,
                )
            )
            self._record(
                conn,
                Recorded.ROLLBACK_OPENED if kind is RotationKind.ROLLBACK else Recorded.ROTATION_OPENED,
                principal,
                at=at,
                rotation_id=rotation_id,
                access_key_id=old_key_id,
                reason=reason,
                detail={
                    "kind": kind.value,
                    "asked_by": asked_by,
                    "user_id": principal.user_id,
                    "target": target,
                    "old_key_created_at": None if old_key_created_at is None else t.time_text(old_key_created_at),
                },
            )
            return rotation_from(self._rotation(conn, principal, rotation_id))

    def create_intended(
        self,
        principal: Principal,
        rotation_id: RotationId,
        *,
        operation_id: str,
        keys_before: frozenset[AccessKeyId],
        cas: int,
        place: Place,
        at: datetime,
    ) -> None:
        with self._owned() as conn:
            self._rotation(conn, principal, rotation_id, IssueState.OPENED)
            conn.execute(
                sa.insert(t.create_intent).values(
                    operation_id=operation_id,
                    rotation_id=rotation_id,
                    account_id=principal.account_id,
                    user_id=principal.user_id,
                    sent_at=at,
                    keys_before=t.keys_text(keys_before),
                    cas=cas,
                    place=t.place_text(place),
                )
            )
            self._set_rotation(
                conn,
                rotation_id,
                state=IssueState.CREATING.value,
                operation_id=operation_id,
                keys_before=t.keys_text(keys_before),
                create_sent_at=at,
                cas=cas,
            )
            self._note_change(conn, principal, at)
            self._begin_requests(conn, principal, all_kinds=True)
            self._record(
                conn,
                Recorded.KEY_REQUESTED,
                principal,
                at=at,
                rotation_id=rotation_id,
                detail={"operation_id": operation_id, "cas": cas, "keys_before": ",".join(sorted(keys_before))},
            )

    def created(
        self,
        principal: Principal,
        rotation_id: RotationId,
        key_id: AccessKeyId,
        *,
        at: datetime,
        reason: Reason | None = None,
    ) -> None:
        with self._owned() as conn:
            row = self._rotation(conn, principal, rotation_id, *IssueState, closed_too=True)
            self._claim(conn, principal, rotation_id, key_id, at=at)
            if row.closed_at is None and row.state == IssueState.CREATING:
                self._set_rotation(conn, rotation_id, state=IssueState.CREATED.value, new_key_id=key_id)
            self._note_change(conn, principal, at)
            self._record(
                conn,
                Recorded.KEY_CREATED,
                principal,
                at=at,
                rotation_id=rotation_id,
                access_key_id=key_id,
                reason=reason,
            )

    def not_created(self, principal: Principal, rotation_id: RotationId, *, reason: Reason, at: datetime) -> None:
        with self._owned() as conn:
            row = self._rotation(conn, principal, rotation_id, IssueState.CREATING, closed_too=True)
            self._resolve(conn, rotation_id, outcome="not created", key_id=None, at=at)
            if row.closed_at is None:
                self._set_rotation(
                    conn,
                    rotation_id,
                    state=IssueState.OPENED.value,
                    operation_id=None,
                    keys_before=None,
                    create_sent_at=None,
                    cas=None,
                )
            self._record(conn, Recorded.KEY_NOT_CREATED, principal, at=at, rotation_id=rotation_id, reason=reason)

    def create_unknown(self, principal: Principal, rotation_id: RotationId, *, detail: str, at: datetime) -> None:
        with self._owned() as conn:
            self._rotation(conn, principal, rotation_id, IssueState.CREATING)
            self._note_change(conn, principal, at)
            self._record(
                conn, Recorded.KEY_LOST_ANSWER, principal, at=at, rotation_id=rotation_id, detail={"error": detail}
            )

    def publish_intended(
        self, principal: Principal, rotation_id: RotationId, *, cas: int, at: datetime, proven_in: Sequence[str] = ()
    ) -> None:
        with self._owned() as conn:
            row = self._rotation(
                conn, principal, rotation_id, IssueState.OPENED, IssueState.CREATED, IssueState.PUBLISHING
            )
            if row.state == IssueState.OPENED and row.kind != RotationKind.ROLLBACK:
                raise JournalError(f"rotation {rotation_id} of {principal.label} has no key to publish yet")
            self._set_rotation(conn, rotation_id, state=IssueState.PUBLISHING.value, cas=cas)
            self._begin_requests(conn, principal, all_kinds=False)
            self._record(
                conn,
                Recorded.KEY_PUBLISH_INTENDED,
                principal,
                at=at,
                rotation_id=rotation_id,
                access_key_id=row.new_key_id,
                detail={"cas": cas, "proven_in": ",".join(proven_in)},
            )

    def published(
        self,
        principal: Principal,
        rotation_id: RotationId,
        *,
        key_id: AccessKeyId,
        place: Place,
        version: int,
        version_created_at: datetime,
        at: datetime,
    ) -> None:
        with self._owned() as conn:
            row = self._rotation(
                conn,
                principal,
                rotation_id,
                IssueState.OPENED,
                IssueState.CREATING,
                IssueState.CREATED,
                IssueState.PUBLISHING,
            )
            if row.new_key_id not in (None, key_id):
                raise JournalError(
                    f"rotation {rotation_id} of {principal.label} made {row.new_key_id}, but {key_id} was published"
                )
            rollback = row.kind == RotationKind.ROLLBACK
            self._set_rotation(conn, rotation_id, state=IssueState.PUBLISHED.value, new_key_id=key_id, published_at=at)
            if not rollback:
                self._claim(conn, principal, rotation_id, key_id, at=at)
            self._set_key(conn, principal, key_id, published=True, **_NOT_RETIRING)
            if row.old_key_id not in (None, key_id):
                why = RetireWhy.ROLLED_BACK if rollback else RetireWhy.OVERLAP
                self._retire(conn, principal, row.old_key_id, why=why, reason=None, at=at)
            t.put(
                conn,
                t.publication,
                {"account_id": principal.account_id, "user_id": principal.user_id},
                {
                    "key_id": key_id,
                    "place": t.place_text(place),
                    "version": version,
                    "version_created_at": version_created_at,
                    "published_at": at,
                    "rotation_id": rotation_id,
                },
            )
            self._set_managed(
                conn,
                principal,
                held_dead_since=None,
                restored_key_id=key_id if rollback else None,
                proven_version=version,
            )
            self._set_anchor(
                conn,
                principal,
                Anchored(access_key_id=key_id, version=version, version_created_at=version_created_at, place=place),
            )
            self._record(
                conn,
                Recorded.KEY_PUBLISHED,
                principal,
                at=at,
                rotation_id=rotation_id,
                access_key_id=key_id,
                detail={"version": version, "mount": place.mount, "path": place.path, "old_key_id": row.old_key_id},
                clock=True,
            )
            self._fulfil(conn, principal, row, at=at)

    def burned(self, principal: Principal, rotation_id: RotationId, *, version: int, at: datetime) -> None:
        with self._owned() as conn:
            self._rotation(conn, principal, rotation_id, *IssueState, closed_too=True)
            self._set_rotation(conn, rotation_id, burned_version=version)
            self._record(
                conn,
                Recorded.VERSION_BURNED,
                principal,
                at=at,
                rotation_id=rotation_id,
                detail={"version": version},
            )

    def close_rotation(
        self, principal: Principal, rotation_id: RotationId, *, reason: Reason, completed: bool, at: datetime
    ) -> None:
        with self._owned() as conn:
            row = self._rotation(conn, principal, rotation_id, *IssueState)
            self._set_rotation(conn, rotation_id, closed_at=at, close_reason=reason.value, completed=completed)
            if completed and row.old_key_id is not None:
                # It may have been deleted by somebody else; then no change of ours ended its retirement.
                conn.execute(
                    sa.update(t.key_fact)
                    .where(
                        is_user(t.key_fact, principal),
                        t.key_fact.c.key_id == row.old_key_id,
                        t.key_fact.c.gone_at.is_(None),
                    )
                    .values(gone_at=at)
                )
            self._record(
                conn,
                Recorded.ROLLBACK_CLOSED if row.kind == RotationKind.ROLLBACK else Recorded.ROTATION_CLOSED,
                principal,
                at=at,
                rotation_id=rotation_id,
                access_key_id=row.new_key_id,
                reason=reason,
                detail={"completed": int(completed), "state": row.state},
            )

    def _rotation(
        self,
        conn: sa.Connection,
        principal: Principal,
        rotation_id: RotationId,
        *states: IssueState,
        closed_too: bool = False,
    ) -> sa.Row[Any]:
        """JournalError unless it is this user's, open (a closed one's state does not matter) and in one of `states`."""
        row = conn.execute(
            sa.select(t.rotation).where(is_user(t.rotation, principal), t.rotation.c.id == rotation_id)
        ).first()
        if row is None:
            raise JournalError(f"{principal.label} has no rotation {rotation_id}")
        if row.closed_at is not None:
            if closed_too:
                return row
            raise JournalError(f"rotation {rotation_id} of {principal.label} is closed")
        if states and row.state not in states:
            raise JournalError(f"rotation {rotation_id} of {principal.label} is {row.state}: the step is out of order")
        return row

    def _set_rotation(self, conn: sa.Connection, rotation_id: RotationId, **values: object) -> None:
        conn.execute(sa.update(t.rotation).where(t.rotation.c.id == rotation_id).values(**values))

    def _resolve(
        self, conn: sa.Connection, rotation_id: RotationId, *, outcome: str, key_id: AccessKeyId | None, at: datetime
    ) -> None:
        conn.execute(
            sa.update(t.create_intent)
            .where(t.create_intent.c.rotation_id == rotation_id, t.create_intent.c.resolved_at.is_(None))
            .values(resolved_at=at, outcome=outcome, key_id=key_id)
        )

    def _claim(
        self, conn: sa.Connection, principal: Principal, rotation_id: RotationId, key_id: AccessKeyId, *, at: datetime
    ) -> None:
        """The key is what this rotation's request made; its last one, should there have been several."""
        c = t.create_intent.c
        intent = conn.execute(
            sa.select(c.sent_at, c.cas).where(c.rotation_id == rotation_id).order_by(c.sent_at.desc()).limit(1)
        ).first()
        if intent is None:
            raise JournalError(f"rotation {rotation_id} of {principal.label} never meant to create {key_id}")
        self._resolve(conn, rotation_id, outcome="created", key_id=key_id, at=at)
        self._set_key(conn, principal, key_id, made_by=rotation_id, cas=intent.cas, made_at=intent.sent_at)

    def _fulfil(self, conn: sa.Connection, principal: Principal, row: sa.Row[Any], *, at: datetime) -> None:
        """Answer the wishes that this publication grants.

        A rollback grants only rollbacks, and nothing else does. An emergency that was asked after an ordinary rotation
        had been opened stays asked: that rotation's old key keeps its overlap, which is not what was wished for.
        """
        for request in conn.execute(sa.select(t.request).where(is_open_request(principal))).all():
            if request.rollback != (row.kind == RotationKind.ROLLBACK):
                continue
            if request.emergency and row.kind == RotationKind.NORMAL and request.asked_at > row.opened_at:
                continue
            conn.execute(
                sa.update(t.request)
                .where(t.request.c.id == request.id)
                .values(answer="published", reason=row.reason, answered_at=at, begun=True)
            )
            self._record(
                conn,
                Recorded.REQUEST_SERVED,
                principal,
                at=at,
                rotation_id=row.id,
                detail={"request": request.id, "answer": "published"},
            )


_NOT_RETIRING: dict[str, object] = {
    "retire_why": None,
    "retire_reason": None,
    "started_at": None,
    "deactivation_sent_at": None,
    "deactivated_at": None,
    "deletion_sent_at": None,
    "gone_at": None,
}
