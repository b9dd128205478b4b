"""Where a user's pair was seen, so that an edited place is noticed before rekeyd ever published there."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("principal", sa.Column("anchor_place", sa.Text, nullable=True))
