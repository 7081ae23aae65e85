"""Answers that are given again to the same Idempotency-Key."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
reads = ()
rewrites = ()


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("ledger_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("key_id", "idempotency_key", name=op.f("answers_pk")),
    )
    op.create_index("answers_ledger_id", "answers", ["ledger_id"], unique=False)
    op.create_index("answers_created_at", "answers", ["created_at"], unique=False)
