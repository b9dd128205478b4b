"""Places in Vault that a pair was moved away from and that still hold one."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "left_place",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("left_at", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_left_place"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_left_place_account_id", "left_place", ["account_id"])
