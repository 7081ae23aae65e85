"""Values of the configuration as short text, for an operator who reads them elsewhere.

Rule: no password is in it, and no folder of this machine save in the address of a Unix socket.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel

from reverie.errors import ConfigurationError
from reverie.models.reference import shown
from reverie.settings import NO_STORE, StoreSettings
from reverie.store.database.engine import parse_url

_LONGEST = 500
"""Characters of one value; what is longer is cut."""


def text_of(section: BaseModel, key: str) -> str | None:
    """A key's value as TOML has it; None if it has none."""
    value = getattr(section, key)
    if value is None:
        return None
    if key == "url" and isinstance(section, StoreSettings):
        value = _store_url(value)
    elif key == "source":
        value = shown(value)
    elif key == "engine":
        value = Path(value).name
    return _cut(_toml(value))


def table_of(section: BaseModel) -> str:
    """What is set of a section, as TOML has it on one line."""
    return _cut(_inline(section))


def _inline(section: BaseModel) -> str:
    fields = type(section).model_fields
    default = {key: field.default for key, field in fields.items()}
    pairs = [
        f"{key} = {text}"
        for key in fields
        if getattr(section, key) != default[key] and (text := text_of(section, key)) is not None
    ]
    return f"{{ {', '.join(pairs)} }}" if pairs else "{}"


def _toml(value: Any) -> str:
    if isinstance(value, BaseModel):
        return _inline(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, PurePath):
        value = value.name
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _store_url(url: str) -> str:
    """A store's URL without its password, its parameters, which may hold one, and its folders."""
    if url == NO_STORE:
        return url
    try:
        parsed = parse_url(url)
    except ConfigurationError:
        return "…"
    if parsed.get_backend_name() == "sqlite":
        return f"sqlite:///{Path(parsed.database or '').name}"
    return parsed.set(drivername="postgresql", query={}).render_as_string(hide_password=True)
