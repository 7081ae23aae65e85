"""Accounts on disk: keys, the ledger, usage. SQLAlchemy Core, on SQLite or PostgreSQL."""
