"""${message}"""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None
# Tables that are read whole, as for an index, and those whose rows are written anew: for the plan.
reads = ()
rewrites = ()


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
