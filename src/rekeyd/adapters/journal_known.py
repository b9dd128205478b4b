"""What the journal has on one principal: read only, unchecked against Vault."""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from rekeyd.adapters import journal_schema as t
from rekeyd.adapters.journal_chain import meta_value
from rekeyd.adapters.journal_owners import HolderAlive
from rekeyd.core.model import (
    AccessKeyId,
    CreateIntent,
    IssueState,
    JournalFacts,
    KeyFacts,
    Principal,
    Publication,
    Retirement,
    RetireWhy,
    Rotation,
    RotationKind,
    UserId,
)
from rekeyd.core.reasons import Reason
from rekeyd.ports import Anchored, Known, PendingChange

# CloudTrail's event history, which alone can still explain such a key, goes back 90 days.
# https://docs.aws.amazon.com/awscloudtrail/latest/userguide/view-cloudtrail-events.html
INTENTS_KEPT = timedelta(days=90)


def known_of(conn: sa.Connection, principal: Principal, *, now: datetime, alive: HolderAlive) -> Known:
    """In one consistent view: the caller's transaction."""
    row = conn.execute(_PRINCIPAL, _who(principal)).first()
    facts = JournalFacts(
        rotation=_open_rotation(conn, principal),
        keys=_keys(conn, principal),
        unresolved=_unresolved(conn, principal, now),
        publication=_publication(conn, principal),
        proven_version=None if row is None else row.proven_version,
        held_dead_since=None if row is None else row.held_dead_since,
        restored_key_id=None if row is None else row.restored_key_id,
    )
    return Known(
        facts=facts,
        user_name=None if row is None else row.user_name,
        name_taken_by=_name_taken_by(conn, principal),
        anchor=_anchor(row),
        pending=_pending(conn, principal, alive),
        last_change_at=None if row is None else row.last_change_at,
        failures=0 if row is None else row.failures,
        retry_at=None if row is None else row.retry_at,
        managed_before=row is not None and row.managed,
    )


def _open_rotation(conn: sa.Connection, principal: Principal) -> Rotation | None:
    row = conn.execute(_OPEN_ROTATION, _who(principal)).first()
    return None if row is None else rotation_from(row)


def _keys(conn: sa.Connection, principal: Principal) -> dict[AccessKeyId, KeyFacts]:
    rows = conn.execute(_KEYS, _who(principal)).all()
    not_before = _clocks_not_before(conn) if rows else None
    return {row.key_id: _key_facts(row, not_before) for row in rows}


def retirement_from(conn: sa.Connection, row: sa.Row[Any]) -> Retirement:
    """Of a key that is on its way out."""
    return _retirement(row, _clocks_not_before(conn))


def _clocks_not_before(conn: sa.Connection) -> datetime | None:
    text = meta_value(conn, "clocks_not_before")
    return None if text is None else datetime.fromisoformat(text)


def _unresolved(conn: sa.Connection, principal: Principal, now: datetime) -> tuple[CreateIntent, ...]:
    rows = conn.execute(_UNRESOLVED, {**_who(principal), "kept_since": now - INTENTS_KEPT})
    return tuple(
        CreateIntent(
            rotation_id=row.rotation_id,
            operation_id=row.operation_id,
            sent_at=row.sent_at,
            keys_before=t.keys_from(row.keys_before),
        )
        for row in rows
    )


def _publication(conn: sa.Connection, principal: Principal) -> Publication | None:
    row = conn.execute(_PUBLICATION, _who(principal)).first()
    if row is None:
        return None
    return Publication(
        access_key_id=row.key_id,
        place=t.place_from(row.place),
        version=row.version,
        version_created_at=row.version_created_at,
        published_at=row.published_at,
    )


def _name_taken_by(conn: sa.Connection, principal: Principal) -> UserId | None:
    """Only a user that rekeyd did something for: one that it merely looked at says nothing about a re-creation."""
    other: UserId | None = conn.execute(_NAMESAKE, {**_who(principal), "name": t.folded(principal.user_name)}).scalar()
    return other


def _pending(conn: sa.Connection, principal: Principal, alive: HolderAlive) -> tuple[PendingChange, ...]:
    rows = conn.execute(_PENDING, _who(principal))
    return tuple(
        PendingChange(
            holder=row.holder,
            holder_alive=alive(row.holder),
            key_id=row.key_id,
            verb=row.verb,
            sent_at=row.sent_at,
        )
        for row in rows
    )


def is_unresolved(kept_since: datetime | sa.BindParameter[datetime]) -> sa.ColumnElement[bool]:
    """On `create_intent` joined with its `rotation`; `kept_since` is `INTENTS_KEPT` ago."""
    return sa.and_(
        t.create_intent.c.resolved_at.is_(None),
        sa.or_(t.rotation.c.closed_at.is_(None), t.create_intent.c.sent_at >= kept_since),
    )


def rotation_from(row: sa.Row[Any]) -> Rotation:
    return Rotation(
        id=row.id,
        kind=RotationKind(row.kind),
        opened_at=row.opened_at,
        asked_by=row.asked_by,
        state=IssueState(row.state),
        operation_id=row.operation_id,
        keys_before=t.keys_from(row.keys_before),
        create_sent_at=row.create_sent_at,
        old_key_id=row.old_key_id,
        new_key_id=row.new_key_id,
        cas=row.cas,
        burned_version=row.burned_version,
        published_at=row.published_at,
    )


def _key_facts(row: sa.Row[Any], not_before: datetime | None) -> KeyFacts:
    return KeyFacts(
        made_by=row.made_by,
        cas=row.cas,
        made_at=row.made_at,
        published=row.published,
        deactivated_by_us=row.deactivated_by_us,
        retirement=None if row.retire_why is None else _retirement(row, not_before),
        gone=row.gone_at is not None,
    )


def _retirement(row: sa.Row[Any], not_before: datetime | None) -> Retirement:
    def no_sooner(at: datetime) -> datetime:
        return at if not_before is None else max(at, not_before)

    return Retirement(
        why=RetireWhy(row.retire_why),
        started_at=no_sooner(row.started_at),
        deactivation_sent_at=row.deactivation_sent_at,
        deactivated_at=None if row.deactivated_at is None else no_sooner(row.deactivated_at),
        deletion_sent_at=row.deletion_sent_at,
        reactivated=row.deactivated_at is None and row.retire_reason == Reason.REACTIVATED,
    )


def _anchor(row: sa.Row[Any] | None) -> Anchored | None:
    if row is None or row.anchor_version is None:
        return None
    return Anchored(
        access_key_id=row.anchor_key_id,
        version=row.anchor_version,
        version_created_at=row.anchor_created_at,
        place=None if row.anchor_place is None else t.place_from(row.anchor_place),
    )


def _who(principal: Principal) -> dict[str, str]:
    return {"account": principal.account_id, "user": principal.user_id}


def _of_user(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.account_id == sa.bindparam("account"), table.c.user_id == sa.bindparam("user"))


# Made once: building a statement costs more than running it, and every look runs all of these.
_PRINCIPAL = sa.select(t.principal).where(_of_user(t.principal))
_OPEN_ROTATION = sa.select(t.rotation).where(_of_user(t.rotation), t.rotation.c.closed_at.is_(None))
_KEYS = sa.select(t.key_fact).where(_of_user(t.key_fact))
_PUBLICATION = sa.select(t.publication).where(_of_user(t.publication))
_PENDING = sa.select(t.pending_change).where(_of_user(t.pending_change)).order_by(t.pending_change.c.id)
_UNRESOLVED = (
    sa.select(t.create_intent)
    .join(t.rotation, t.rotation.c.id == t.create_intent.c.rotation_id)
    .where(_of_user(t.create_intent), is_unresolved(sa.bindparam("kept_since", type_=t.UtcDateTime)))
    .order_by(t.create_intent.c.sent_at)
)
_NAMESAKE = sa.select(t.principal.c.user_id).where(
    t.principal.c.account_id == sa.bindparam("account"),
    t.principal.c.name_folded == sa.bindparam("name"),
    t.principal.c.user_id != sa.bindparam("user"),
    t.principal.c.managed.is_(True),
)
