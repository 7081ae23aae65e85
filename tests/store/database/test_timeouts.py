"""A database that hangs holds nobody up for ever."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from reverie.errors import StoreFailure
from reverie.settings import StoreSettings
from reverie.store.database.engine import Store
from tests.postgres import Postgres


def test_a_server_that_hangs_fails_what_waits_for_it_and_is_used_again_later(
    own_postgres: Postgres,
) -> None:
    store = Store(StoreSettings(url=own_postgres.url, timeout=0.2))
    with store.read() as connection:  # so that there is a connection to hang
        assert connection.execute(text("SELECT 1")).scalar() == 1
    own_postgres.pause()
    with pytest.raises(StoreFailure, match="it hangs: ") as failure, store.read() as hung:
        hung.execute(text("SELECT 2"))
    assert failure.value.transient
    own_postgres.resume()
    with store.read() as connection:
        assert connection.execute(text("SELECT 3")).scalar() == 3
    store.close()


def test_what_the_server_itself_gives_up_is_told_by_the_server(own_postgres: Postgres) -> None:
    store = Store(StoreSettings(url=own_postgres.url, timeout=0.2))
    with (
        pytest.raises(StoreFailure, match=r"longer than store\.timeout"),
        store.read() as connection,
    ):
        connection.execute(text("SELECT pg_sleep(30)"))
    store.close()
