"""Tags of keys, and an index to search keys through."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
reads = ("keys",)
rewrites = ()


def upgrade() -> None:
    op.create_table(
        "key_tags",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "tag", name=op.f("key_tags_pk")),
        sqlite_with_rowid=False,
    )
    op.create_index("key_tags_tag", "key_tags", ["tag", "key_id"], unique=False)
    op.create_index("keys_search", "keys", ["id", "name", "revoked_at", "expires_at"], unique=False)
