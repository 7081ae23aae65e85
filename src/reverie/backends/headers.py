"""The headers of every request to a server: none of them is a client's."""

from __future__ import annotations

from collections.abc import Mapping

import reverie
from reverie.errors import ModelError
from reverie.settings import BackendSettings


def request_headers(settings: BackendSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """The headers, with the server's key if it has one.

    Args:
        environ: holds the key, under the configured name.

    Raises:
        ModelError: it doesn't, or what it holds is no key.
    """
    headers = {
        "Content-Type": "application/json",
        "Accept": "text/event-stream, application/json",
        "Accept-Encoding": "identity",  # compression would hold a stream back
        "User-Agent": f"reverie/{reverie.__version__}",
    }
    if settings.key is not None:
        headers["Authorization"] = f"Bearer {settings.key.get_secret_value()}"
    elif settings.api_key_env is not None:
        headers["Authorization"] = f"Bearer {_api_key(settings.api_key_env, environ)}"
    return headers


def _api_key(variable: str, environ: Mapping[str, str]) -> str:
    key = environ.get(variable, "").strip()
    if not key:
        raise ModelError(
            f"The environment variable {variable}, named in api_key_env, is not set. "
            "Set it to the backend's key."
        )
    if not (key.isascii() and key.isprintable()):
        raise ModelError(f"The environment variable {variable} holds no key: it isn't plain text.")
    return key
