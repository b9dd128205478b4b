"""Acknowledgement of alarms, the outbox of channels, keys that a person said are exposed."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = sa.String(27)


def upgrade() -> None:
    op.add_column("alarm", sa.Column("repeats", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.add_column("alarm", sa.Column("acknowledged_until", _TIME, nullable=True))
    op.add_column("alarm", sa.Column("acknowledged_by", sa.Text, nullable=True))
    op.add_column("alarm", sa.Column("acknowledged_because", sa.Text, nullable=True))
    op.create_table(
        "channel",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("busy", sa.Text, nullable=True),
        sa.Column("batch", sa.Text, nullable=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("failing_since", _TIME, nullable=True),
        sa.Column("retry_at", _TIME, nullable=True),
        sa.Column("error", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_channel"),
        sa.ForeignKeyConstraint(["busy"], ["replica.holder"], name="fk_channel_busy", ondelete="SET NULL"),
    )
    op.create_index("ix_channel_busy", "channel", ["busy"])
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("alarm", sa.Text, nullable=False),
        sa.Column("batch", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_channel", "outbox", ["channel", "id"])
    op.create_table(
        "exposed_key",
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("told_by", sa.Text, nullable=False),
        sa.Column("told_at", _TIME, nullable=False),
        sa.Column("because", sa.Text, nullable=False),
        sa.Column("over_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("key_id", name="pk_exposed_key"),
    )
    op.create_index("ix_exposed_key_account", "exposed_key", ["account_id"])
