"""Which store a command uses, in words."""

from __future__ import annotations

import os

from reverie.settings import NO_STORE, StoreSettings


def whereabouts(store: StoreSettings) -> str:
    """The store's file, or its database without user, password and options.

    Raises:
        ConfigurationError: its URL can't be used.
    """
    if store.url == NO_STORE:
        return "none are kept"
    from reverie.gateway.accounts.store import parse_url  # slow to import

    url = parse_url(store.url)
    if url.get_backend_name() == "sqlite":
        return os.path.abspath(str(url.database))
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{url.host or ''}{port}/{url.database or ''}"
