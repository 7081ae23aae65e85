"""The store of a configuration, opened for one command."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager

from reverie.errors import ConfigurationError
from reverie.settings import NO_STORE, StoreSettings
from reverie.store.database.engine import Store as Store
from reverie.store.database.engine import parse_url as parse_url
from reverie.store.database.migrate import migrate
from reverie.store.database.schema import HEAD


@contextmanager
def opened(
    settings: StoreSettings,
    *,
    create: bool,
    unhurried: bool = False,
    as_it_is: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Generator[Store, None, None]:
    """The store, brought up to date. A server may run on it or not.

    Args:
        create: whether to create a SQLite file that doesn't exist.
        unhurried: whether statements may take longer than ``store.timeout``.
        as_it_is: whether it is left at the revision that it has.
        tell: called with a sentence if that changed.

    Raises:
        ConfigurationError: there is no store, or this version can't use it.
        StoreFailure: it can't be reached, or is locked.
    """
    if settings.url == NO_STORE:
        raise ConfigurationError(
            ["store.url is none, so there are no accounts: leave that out, or name a store"]
        )
    url = parse_url(settings.url)
    if not create and url.get_backend_name() == "sqlite" and not os.path.exists(str(url.database)):
        raise ConfigurationError(
            [f"store.url: there is no file {url.database}; create a key, or start the server"]
        )
    store = Store(settings, unhurried=unhurried)
    try:
        if not as_it_is and (before := migrate(store)) not in (None, HEAD):
            tell(f"the store was migrated from revision {before} to {HEAD}")
        yield store
    finally:
        store.close()
