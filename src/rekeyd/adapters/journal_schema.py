"""The journal's tables, and how values are kept in them.

* No column can hold a secret: there is none for one, and every text column is an id, a name, a sentence of ours or a
  time.
* Times are text of fixed width in UTC (`2026-01-31T12:00:00.000000Z`), so that they sort as text, hash the same on
  every database and can be read by people.
* `rekeyd/migrations` makes these tables; a test keeps the two equal.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa

from rekeyd.adapters.vault_settings import normal_address
from rekeyd.core.model import AccessKeyId, Place, Principal

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
"""Every schema that this program knows, oldest first; a test compares it with `rekeyd/migrations/versions`."""

MAX_TEXT = 500
"""Characters kept of a message of ours; the longer ones name many things, and the first ones tell enough."""


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware datetime as fixed-width text."""

    impl = sa.String(27)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else time_text(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else datetime.fromisoformat(value)


def time_text(at: datetime) -> str:
    if at.tzinfo is None:
        raise ValueError("a time without a zone reached the journal")
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def canonical(value: object) -> str:
    """The one JSON text of a value: what is stored and what is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def keys_text(keys: Iterable[AccessKeyId]) -> str:
    return canonical(sorted(keys))


def keys_from(text: str | None) -> frozenset[AccessKeyId]:
    return frozenset(json.loads(text)) if text else frozenset()


def place_text(place: Place) -> str:
    return canonical(
        {
            "address": place.address,
            "namespace": place.namespace,
            "mount": place.mount,
            "path": place.path,
            "id_field": place.id_field,
            "secret_field": place.secret_field,
        }
    )


def place_from(text: str) -> Place:
    """Its address in the spelling of now: earlier versions wrote what stood in the configuration."""
    parts: dict[str, Any] = json.loads(text)
    return Place(**{**parts, "address": normal_address(parts["address"])})


def folded(user_name: str) -> str:
    """IAM user names are unique without regard to case."""
    return user_name.casefold()


def user_values(principal: Principal) -> dict[str, object]:
    return {"account_id": principal.account_id, "user_id": principal.user_id}


def is_user(table: sa.Table, principal: Principal) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.account_id == principal.account_id, table.c.user_id == principal.user_id)


def put(conn: sa.Connection, table: sa.Table, keys: Mapping[str, object], values: Mapping[str, object]) -> None:
    """Update the row with these keys, or insert it. Inside a write transaction nobody comes between."""
    if values and conn.execute(update_of(table, *keys), {**key_values(keys), **values}).rowcount:
        return
    if not values and conn.execute(select_of(table, *keys), key_values(keys)).first():
        return
    conn.execute(insert_of(table), {**keys, **values})


# Made once: building a statement costs more than running it, and every look runs some of these.
@cache
def update_of(table: sa.Table, *keys: str) -> sa.Update:
    """Sets the columns of the parameters in the row with these keys, whose parameters are `key_values`."""
    return sa.update(table).where(_matches(table, keys))


def key_values(keys: Mapping[str, object]) -> dict[str, object]:
    return {f"where_{name}": value for name, value in keys.items()}


@cache
def select_of(table: sa.Table, *keys: str) -> sa.Select[Any]:
    return sa.select(table).where(_matches(table, keys))


@cache
def insert_of(table: sa.Table) -> sa.Insert:
    return sa.insert(table)


def _matches(table: sa.Table, keys: Iterable[str]) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name] == sa.bindparam(f"where_{name}") for name in keys))


metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _text(name: str, *, null: bool = False, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null, primary_key=primary_key)


def _time(name: str, *, null: bool = True) -> sa.Column[datetime]:
    return sa.Column(name, UtcDateTime, nullable=null)


def _int(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=null)


def _bool(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False)


meta = sa.Table("meta", metadata, _text("name", primary_key=True), _text("value"))

replica = sa.Table(
    "replica",
    metadata,
    _text("holder", primary_key=True),
    _time("started_at", null=False),
    _time("seen_at", null=False),
)

account = sa.Table(
    "account",
    metadata,
    _text("account_id", primary_key=True),
    sa.Column("holder", sa.Text, sa.ForeignKey("replica.holder", ondelete="SET NULL"), nullable=True, index=True),
    _int("epoch"),
)

principal = sa.Table(
    "principal",
    metadata,
    _text("account_id", primary_key=True),
    _text("user_id", primary_key=True),
    _text("user_name"),
    _text("name_folded", null=True),
    _bool("managed"),
    _int("failures"),
    _time("retry_at"),
    _time("last_change_at"),
    _int("proven_version", null=True),
    _time("held_dead_since"),
    _text("restored_key_id", null=True),
    _text("anchor_key_id", null=True),
    _int("anchor_version", null=True),
    _time("anchor_created_at"),
    _text("anchor_place", null=True),
    sa.Index("ix_principal_name", "account_id", "name_folded"),
)

rotation = sa.Table(
    "rotation",
    metadata,
    _text("id", primary_key=True),
    _text("account_id"),
    _text("user_id"),
    _text("user_name"),
    _text("kind"),
    _text("reason"),
    _text("asked_by", null=True),
    _text("state"),
    _text("operation_id", null=True),
    _text("keys_before", null=True),
    _text("old_key_id", null=True),
    _text("new_key_id", null=True),
    _int("cas", null=True),
    _int("burned_version", null=True),
    _time("opened_at", null=False),
    _time("create_sent_at"),
    _time("published_at"),
    _time("closed_at"),
    _text("close_reason", null=True),
    sa.Column("completed", sa.Boolean, nullable=True),
    sa.Index(
        "uq_rotation_open",
        "account_id",
        "user_id",
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    ),
    sa.Index("ix_rotation_opened_at", "opened_at"),
)

create_intent = sa.Table(
    "create_intent",
    metadata,
    _text("operation_id", primary_key=True),
    sa.Column("rotation_id", sa.Text, sa.ForeignKey("rotation.id"), nullable=False, index=True),
    _text("account_id"),
    _text("user_id"),
    _time("sent_at", null=False),
    _text("keys_before"),
    _int("cas"),
    _text("place"),
    _time("resolved_at"),
    _text("outcome", null=True),
    _text("key_id", null=True),
    sa.Index("ix_create_intent_user", "account_id", "user_id"),
)

key_fact = sa.Table(
    "key_fact",
    metadata,
    _text("account_id", primary_key=True),
    _text("user_id", primary_key=True),
    _text("key_id", primary_key=True),
    _text("made_by", null=True),
    _int("cas", null=True),
    _time("made_at"),
    _bool("published"),
    _bool("deactivated_by_us"),
    _text("retire_why", null=True),
    _text("retire_reason", null=True),
    _time("started_at"),
    _time("deactivation_sent_at"),
    _time("deactivated_at"),
    _time("deletion_sent_at"),
    _time("gone_at"),
)

publication = sa.Table(
    "publication",
    metadata,
    _text("account_id", primary_key=True),
    _text("user_id", primary_key=True),
    _text("key_id"),
    _text("place"),
    _int("version"),
    _time("version_created_at", null=False),
    _time("published_at", null=False),
    _text("rotation_id"),
)

# Where a moved pair stood before, until nobody finds one there any more.
left_place = sa.Table(
    "left_place",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("account_id", sa.Text, nullable=False, index=True),
    _text("user_id"),
    _text("user_name"),
    _text("place"),
    _time("left_at", null=False),
    sqlite_autoincrement=True,
)

pending_change = sa.Table(
    "pending_change",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    _text("account_id"),
    _text("user_id"),
    _text("key_id"),
    _text("verb"),
    _text("holder"),
    _time("sent_at", null=False),
    # what the key's row said before, so that a change that certainly did not happen leaves no trace in it
    _bool("before_deactivated_by_us"),
    _time("before_deactivation_sent_at"),
    _time("before_deletion_sent_at"),
    sa.Index("ix_pending_change_user", "account_id", "user_id"),
)

request = sa.Table(
    "request",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    _text("account_id"),
    _text("user_name"),
    _text("name_folded"),
    _text("asked_by"),
    _time("asked_at", null=False),
    _bool("emergency"),
    _bool("rollback"),
    _text("replace_key_id", null=True),
    _bool("begun"),
    _text("answer", null=True),
    _text("reason", null=True),
    _time("answered_at"),
    sa.Index("ix_request_user", "account_id", "name_folded"),
    sqlite_autoincrement=True,
)

principal_status = sa.Table(
    "principal_status",
    metadata,
    _text("account_id", primary_key=True),
    _text("user_id", primary_key=True),
    _text("user_name"),
    _text("policy", null=True),
    _text("state"),
    _text("reason"),
    _text("message"),
    _text("held_access_key_id", null=True),
    _text("old_access_key_id", null=True),
    _time("held_created_at"),
    _time("oldest_active_at"),
    _time("next_at"),
    _time("looked_at", null=False),
)

account_status = sa.Table(
    "account_status",
    metadata,
    _text("account_id", primary_key=True),
    _text("alias", null=True),
    _text("state"),
    _text("message"),
    _time("last_pass_at"),
    _time("last_drift_at"),
    _int("principals"),
    _int("due"),
)

alarm = sa.Table(
    "alarm",
    metadata,
    _text("fingerprint", primary_key=True),
    _text("severity"),
    _text("reason"),
    _text("account_id", null=True),
    _text("principal", null=True),
    _text("message"),
    _text("remedy"),
    _text("cis"),
    _time("first_seen_at", null=False),
    _time("last_seen_at", null=False),
    _time("notified_at"),
    _time("resolved_at"),
    sa.Column("repeats", sa.Integer, nullable=False, server_default=sa.text("0")),
    _time("acknowledged_until"),
    _text("acknowledged_by", null=True),
    _text("acknowledged_because", null=True),
    sa.Index("ix_alarm_resolved_at", "resolved_at"),
)

# One row a channel that was ever used. `busy` is whoever sends to it now; its end frees the channel.
channel = sa.Table(
    "channel",
    metadata,
    _text("name", primary_key=True),
    sa.Column("busy", sa.Text, sa.ForeignKey("replica.holder", ondelete="SET NULL"), nullable=True, index=True),
    _text("batch", null=True),
    _int("failures"),
    _time("failing_since"),
    _time("retry_at"),
    _text("error"),
)

# What a channel has not taken yet; `batch` is set when it is sent for the first time.
outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    _text("channel"),
    _text("kind"),
    _time("at", null=False),
    _text("alarm"),
    _text("batch", null=True),
    sa.Index("ix_outbox_channel", "channel", "id"),
    sqlite_autoincrement=True,
)

# What owners of users were told, or could not be told (no channel). `key_id` is the access key that it was about.
owner_notice = sa.Table(
    "owner_notice",
    metadata,
    _text("account_id", primary_key=True),
    _text("user_id", primary_key=True),
    _text("reason", primary_key=True),
    _text("key_id", primary_key=True),
    _text("owner"),
    _time("told_at", null=False),
)

# Access keys that a person said are in wrong hands.
exposed_key = sa.Table(
    "exposed_key",
    metadata,
    _text("key_id", primary_key=True),
    _text("account_id"),
    _text("user_name"),
    _text("told_by"),
    _time("told_at", null=False),
    _text("because"),
    _time("over_at"),
    sa.Index("ix_exposed_key_account", "account_id"),
)

brake = sa.Table(
    "brake",
    metadata,
    _text("scope", primary_key=True),
    _time("engaged_at", null=False),
    _time("retry_at", null=False),
    _int("failures"),
    _text("detail"),
)

issue_failure = sa.Table(
    "issue_failure", metadata, _text("account_id", primary_key=True), _text("user_id", primary_key=True)
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    _time("at", null=False),
    _text("actor"),
    _text("account_id", null=True),
    _text("user_name", null=True),
    _text("rotation_id", null=True),
    _text("event"),
    _text("access_key_id", null=True),
    _text("reason", null=True),
    _text("detail"),
    _text("hash"),
    sa.Index("ix_event_account", "account_id", "seq"),
    sa.Index("ix_event_rotation", "rotation_id"),
)
