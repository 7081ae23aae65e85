"""Stores to test on, as in ``tests.store``: SQLite and PostgreSQL."""

from tests.store.conftest import store as store
from tests.store.conftest import store_url as store_url
