"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.String(27)


def upgrade() -> None:
    _leases()
    _principals()
    _rotations()
    _people()
    _alarms()
    _events()


def _leases() -> None:
    op.create_table(
        "meta",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_meta"),
    )
    op.create_table(
        "replica",
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("holder", name="pk_replica"),
    )
    op.create_table(
        "account",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=True),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("account_id", name="pk_account"),
        sa.ForeignKeyConstraint(["holder"], ["replica.holder"], name="fk_account_holder", ondelete="SET NULL"),
    )
    op.create_index("ix_account_holder", "account", ["holder"])


def _principals() -> None:
    op.create_table(
        "principal",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("name_folded", sa.Text, nullable=True),
        sa.Column("managed", sa.Boolean, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("retry_at", _TIME, nullable=True),
        sa.Column("last_change_at", _TIME, nullable=True),
        sa.Column("proven_version", sa.Integer, nullable=True),
        sa.Column("held_dead_since", _TIME, nullable=True),
        sa.Column("restored_key_id", sa.Text, nullable=True),
        sa.Column("anchor_key_id", sa.Text, nullable=True),
        sa.Column("anchor_version", sa.Integer, nullable=True),
        sa.Column("anchor_created_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("account_id", "user_id", name="pk_principal"),
    )
    op.create_index("ix_principal_name", "principal", ["account_id", "name_folded"])
    op.create_table(
        "key_fact",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("made_by", sa.Text, nullable=True),
        sa.Column("cas", sa.Integer, nullable=True),
        sa.Column("made_at", _TIME, nullable=True),
        sa.Column("published", sa.Boolean, nullable=False),
        sa.Column("deactivated_by_us", sa.Boolean, nullable=False),
        sa.Column("retire_why", sa.Text, nullable=True),
        sa.Column("retire_reason", sa.Text, nullable=True),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("deactivation_sent_at", _TIME, nullable=True),
        sa.Column("deactivated_at", _TIME, nullable=True),
        sa.Column("deletion_sent_at", _TIME, nullable=True),
        sa.Column("gone_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("account_id", "user_id", "key_id", name="pk_key_fact"),
    )
    op.create_table(
        "publication",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("version_created_at", _TIME, nullable=False),
        sa.Column("published_at", _TIME, nullable=False),
        sa.Column("rotation_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "user_id", name="pk_publication"),
    )
    op.create_table(
        "pending_change",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("verb", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("sent_at", _TIME, nullable=False),
        sa.Column("before_deactivated_by_us", sa.Boolean, nullable=False),
        sa.Column("before_deactivation_sent_at", _TIME, nullable=True),
        sa.Column("before_deletion_sent_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_pending_change"),
    )
    op.create_index("ix_pending_change_user", "pending_change", ["account_id", "user_id"])


def _rotations() -> None:
    op.create_table(
        "rotation",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("asked_by", sa.Text, nullable=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("operation_id", sa.Text, nullable=True),
        sa.Column("keys_before", sa.Text, nullable=True),
        sa.Column("old_key_id", sa.Text, nullable=True),
        sa.Column("new_key_id", sa.Text, nullable=True),
        sa.Column("cas", sa.Integer, nullable=True),
        sa.Column("burned_version", sa.Integer, nullable=True),
        sa.Column("opened_at", _TIME, nullable=False),
        sa.Column("create_sent_at", _TIME, nullable=True),
        sa.Column("published_at", _TIME, nullable=True),
        sa.Column("closed_at", _TIME, nullable=True),
        sa.Column("close_reason", sa.Text, nullable=True),
        sa.Column("completed", sa.Boolean, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_rotation"),
    )
    # One open rotation a user, whatever the code believes.
    still_open = sa.text("closed_at IS NULL")
    op.create_index(
        "uq_rotation_open",
        "rotation",
        ["account_id", "user_id"],
        unique=True,
        sqlite_where=still_open,
        postgresql_where=still_open,
    )
    op.create_index("ix_rotation_opened_at", "rotation", ["opened_at"])
    op.create_table(
        "create_intent",
        sa.Column("operation_id", sa.Text, nullable=False),
        sa.Column("rotation_id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("sent_at", _TIME, nullable=False),
        sa.Column("keys_before", sa.Text, nullable=False),
        sa.Column("cas", sa.Integer, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("resolved_at", _TIME, nullable=True),
        sa.Column("outcome", sa.Text, nullable=True),
        sa.Column("key_id", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("operation_id", name="pk_create_intent"),
        sa.ForeignKeyConstraint(["rotation_id"], ["rotation.id"], name="fk_create_intent_rotation_id"),
    )
    op.create_index("ix_create_intent_rotation_id", "create_intent", ["rotation_id"])
    op.create_index("ix_create_intent_user", "create_intent", ["account_id", "user_id"])


def _people() -> None:
    op.create_table(
        "request",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("name_folded", sa.Text, nullable=False),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("asked_at", _TIME, nullable=False),
        sa.Column("emergency", sa.Boolean, nullable=False),
        sa.Column("rollback", sa.Boolean, nullable=False),
        sa.Column("replace_key_id", sa.Text, nullable=True),
        sa.Column("begun", sa.Boolean, nullable=False),
        sa.Column("answer", sa.Text, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("answered_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_request"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_request_user", "request", ["account_id", "name_folded"])
    op.create_table(
        "principal_status",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("policy", sa.Text, nullable=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("held_access_key_id", sa.Text, nullable=True),
        sa.Column("old_access_key_id", sa.Text, nullable=True),
        sa.Column("held_created_at", _TIME, nullable=True),
        sa.Column("oldest_active_at", _TIME, nullable=True),
        sa.Column("next_at", _TIME, nullable=True),
        sa.Column("looked_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "user_id", name="pk_principal_status"),
    )
    op.create_table(
        "account_status",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("alias", sa.Text, nullable=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("last_pass_at", _TIME, nullable=True),
        sa.Column("last_drift_at", _TIME, nullable=True),
        sa.Column("principals", sa.Integer, nullable=False),
        sa.Column("due", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("account_id", name="pk_account_status"),
    )


def _alarms() -> None:
    op.create_table(
        "alarm",
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=True),
        sa.Column("principal", sa.Text, nullable=True),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("remedy", sa.Text, nullable=False),
        sa.Column("cis", sa.Text, nullable=False),
        sa.Column("first_seen_at", _TIME, nullable=False),
        sa.Column("last_seen_at", _TIME, nullable=False),
        sa.Column("notified_at", _TIME, nullable=True),
        sa.Column("resolved_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_alarm"),
    )
    op.create_index("ix_alarm_resolved_at", "alarm", ["resolved_at"])
    op.create_table(
        "brake",
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("engaged_at", _TIME, nullable=False),
        sa.Column("retry_at", _TIME, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("scope", name="pk_brake"),
    )
    op.create_table(
        "issue_failure",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "user_id", name="pk_issue_failure"),
    )


def _events() -> None:
    op.create_table(
        "event",
        sa.Column("seq", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=True),
        sa.Column("user_name", sa.Text, nullable=True),
        sa.Column("rotation_id", sa.Text, nullable=True),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("access_key_id", sa.Text, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_event"),
    )
    op.create_index("ix_event_account", "event", ["account_id", "seq"])
    op.create_index("ix_event_rotation", "event", ["rotation_id"])
    if op.get_bind().dialect.name == "sqlite":
        for trigger in _SQLITE_TRIGGERS:
            op.execute(trigger)


# Against mistakes, not against an attacker: whoever may write the file may drop a trigger. The hash chain, with its
# head in Vault, is what shows that. INSERT is guarded too, since INSERT OR REPLACE deletes without a DELETE trigger.
_SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER event_never_updated BEFORE UPDATE ON event
    BEGIN SELECT RAISE(ABORT, 'audit events are never changed'); END
    """,
    """
    CREATE TRIGGER event_only_appended BEFORE INSERT ON event
    WHEN NEW.seq <= (SELECT MAX(seq) FROM event)
    BEGIN SELECT RAISE(ABORT, 'audit events are only appended'); END
    """,
    """
    CREATE TRIGGER event_never_deleted BEFORE DELETE ON event
    WHEN OLD.seq > COALESCE((SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'checkpoint_seq'), 0)
    BEGIN SELECT RAISE(ABORT, 'audit events are never deleted'); END
    """,
)
