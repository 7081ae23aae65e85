"""The tables of the store.

Rule 1: times are integer milliseconds since 1970 (UTC); money is integer nano-units of a currency
(1 USD = 10⁹); tokens are integers. There is no float anywhere.

Rule 2: a change here needs a migration in ``migrations/versions``, and ``HEAD`` names the newest
one. A test compares the schema with what the migrations make.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

HEAD = "0003"
"""The newest migration. A store must have been brought to it."""
ROWS_OF_A_GATEWAY = 2**40
"""The numbers of a gateway's rows in the ledger begin with its own number × this."""

MAX_COUNT = 2**31 - 1
"""The largest number that an ``Integer`` column holds."""

metadata = MetaData(
    naming_convention={"ix": "%(table_name)s_%(column_0_N_name)s", "pk": "%(table_name)s_pk"}
)

gateways = Table(
    "gateways",
    metadata,
    # One row for each start of a gateway process. The number prefixes its rows in the ledger.
    Column("id", Integer, primary_key=True, autoincrement=True),
    # Host, boot and process, so that a gateway on the same host can see that it is gone.
    Column("process", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    # Renewed every second while it runs.
    Column("seen_at", BigInteger, nullable=False),
    # Set at an orderly end, and when another gateway has closed its rows.
    Column("ended_at", BigInteger),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    # SHA-256 of the secret, 32 bytes. The secret itself is nowhere.
    Column("hash", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    # Its share of scarce slots, relative to other keys'.
    Column("weight", Integer, nullable=False),
    # JSON list of the models that it may use; null: all.
    Column("models", Text),
    # Requests and tokens per minute, and requests at once; null: unlimited.
    Column("rpm", Integer),
    Column("tpm", Integer),
    Column("concurrency", Integer),
    # Nano-units of ``currency`` per ``budget_period`` (day or month, UTC).
    Column("budget", BigInteger),
    Column("budget_period", Text),
    Column("currency", Text),
    # JSON object: model → {rpm, tpm, concurrency}; null: none.
    Column("model_limits", Text),
    Index("keys_hash", "hash", unique=True),
    Index("keys_name", "name"),
    # All that a search through the keys looks at, in the order of its pages.
    Index("keys_search", "id", "name", "revoked_at", "expires_at"),
)

key_tags = Table(
    "key_tags",
    metadata,
    # An operator's labels of keys, to find keys and to sum their use by.
    Column("key_id", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    Index("key_tags_tag", "tag", "key_id"),
    sqlite_with_rowid=False,
)

ledger = Table(
    "ledger",
    metadata,
    # gateway × ROWS_OF_A_GATEWAY + a counter of that gateway.
    Column(
        "id",
        BigInteger().with_variant(Integer, "sqlite"),  # there it is the row's own number
        primary_key=True,
        autoincrement=False,
    ),
    Column("request_id", Text, nullable=False),
    Column("gateway_id", Integer, nullable=False),
    # A stored key's id, a static key's name, or "anonymous".
    Column("key_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("backend", Text),
    Column("idempotency_key", Text),
    # What was reserved before the work began.
    Column("reserved_tokens", Integer, nullable=False),
    Column("reserved_cost", BigInteger, nullable=False),
    # Nano-units per token at the time of the request: later prices never touch old rows.
    Column("price_input", BigInteger, nullable=False),
    Column("price_cached", BigInteger, nullable=False),
    Column("price_output", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    # What really happened; while the row is open, as of its last checkpoint.
    Column("prompt_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cost", BigInteger, nullable=False),
    # True: the counts are the gateway's own, because the engine gave none.
    Column("estimated", Boolean, nullable=False),
    # ok, length, cancelled, failed, lost; null while it runs.
    Column("outcome", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("first_token_at", BigInteger),
    Column("ended_at", BigInteger),
    # The few open rows: those that a concurrency limit counts, and those that a crash leaves.
    Index(
        "ledger_open_by_key",
        "key_id",
        "model",
        sqlite_where=text("outcome IS NULL"),
        postgresql_where=text("outcome IS NULL"),
    ),
    Index(
        "ledger_open_by_gateway",
        "gateway_id",
        sqlite_where=text("outcome IS NULL"),
        postgresql_where=text("outcome IS NULL"),
    ),
)

usage_daily = Table(
    "usage_daily",
    metadata,
    # Sums of the ledger's closed rows, which change in the transaction that closes a row.
    Column("key_id", Text, primary_key=True),
    # Days since 1970 (UTC) of the row's ``created_at``.
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("model", Text, primary_key=True),
    Column("currency", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("cancelled", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Index("usage_daily_day", "day"),
    sqlite_with_rowid=False,
)

limit_windows = Table(
    "limit_windows",
    metadata,
    # Requests and tokens of one limited subject in one second; old rows are deleted.
    Column("subject", Text, primary_key=True),
    Column("second", BigInteger, primary_key=True, autoincrement=False),
    Column("requests", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

answers = Table(
    "answers",
    metadata,
    # Requests that carried an Idempotency-Key, which is scoped to the API key.
    Column("key_id", Text, primary_key=True),
    Column("idempotency_key", Text, primary_key=True),
    # SHA-256 of the request.
    Column("fingerprint", LargeBinary, nullable=False),
    Column("ledger_id", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # Null while it runs, or if it ended without an answer; its row of the ledger says which.
    Column("finished_at", BigInteger),
    # The answer as it was sent; null if it was too large to keep.
    Column("body", LargeBinary),
    Index("answers_ledger_id", "ledger_id"),
    Index("answers_created_at", "created_at"),
)
