"""A command opens the store of its configuration, and creates one only where it may."""

from __future__ import annotations

from pathlib import Path

import pytest

from reverie.errors import ConfigurationError
from reverie.gateway.accounts.store import opened
from reverie.settings import StoreSettings
from reverie.store import keys


def test_a_store_that_isn_t_there_is_created_and_brought_up_to_date(tmp_path: Path) -> None:
    settings = StoreSettings(url=f"sqlite:///{tmp_path}/new/reverie.db")
    with opened(settings, create=True) as store, store.read() as connection:
        assert not keys.any_exists(connection)
    with opened(settings, create=False) as store, store.read() as connection:
        assert not keys.any_exists(connection)


def test_where_none_may_be_created_nothing_is(tmp_path: Path) -> None:
    settings = StoreSettings(url=f"sqlite:///{tmp_path}/new/reverie.db")
    with pytest.raises(ConfigurationError, match="there is no file"):
        with opened(settings, create=False):
            pass
    assert list(tmp_path.iterdir()) == []


def test_without_accounts_there_is_nothing_to_open() -> None:
    with pytest.raises(ConfigurationError, match=r"store\.url is none"):
        with opened(StoreSettings(url="none"), create=True):
            pass
