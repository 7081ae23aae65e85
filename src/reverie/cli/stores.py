"""Which store a command uses, in words, and a store that it doesn't use though it is in the way.

The default store is in the state directory. Earlier versions had it in the working directory: such
a file is named, and neither used nor moved, since another server may be running on it.
"""

from __future__ import annotations

import os
from pathlib import Path

from reverie.settings import NO_STORE, STORE_FILE, StoreSettings


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


def left_behind(store: StoreSettings) -> str | None:
    """How to go on using the store of an earlier version, if one is in the working directory."""
    old = Path(STORE_FILE)
    if "url" in store.model_fields_set or not old.is_file():
        return None
    if whereabouts(store) == os.path.abspath(old):
        return None
    return (
        f"the {STORE_FILE} in this directory isn't used; to go on with its keys, set "
        f"REVERIE_STORE_URL=sqlite:///{STORE_FILE}, or url in [store]"
    )
