"""Objects of dialects whose clients send new fields with each release.

Rule: what is known is checked, and what isn't is ignored and told. A gateway that refuses the
newest field of Claude Code or Codex breaks them until it is updated itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from reverie.text import printable

_MAX_LISTED = 20
_MAX_NAME = 100


class Lenient(BaseModel):
    """A JSON object whose unknown fields are kept aside, in ``model_extra``."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    NO_EFFECT: ClassVar[frozenset[str]] = frozenset({"cache_control"})
    """Unknown fields that aren't told, since nobody misses their effect."""

    @property
    def without_effect(self) -> str | None:
        """What kind of object this is, if the whole of it is ignored; None if it isn't."""
        return None


class Other(Lenient):
    """An object of a kind that no model behind this gateway can see."""

    type: str

    @property
    def without_effect(self) -> str | None:
        return self.type


def ignored(request: Lenient) -> tuple[str, ...]:
    """What had no effect: unknown fields as dotted paths without indices, objects by their kind."""
    found: set[str] = set()
    for path in _ignored(request, ""):
        found.add(path)
        if len(found) == _MAX_LISTED:
            break
    return tuple(sorted(found))


def ignored_header(names: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """The header that tells which fields of a request had no effect; none if there are none."""
    if not names:
        return []
    return [(b"x-reverie-ignored", ", ".join(map(printable, names)).encode("ascii", "replace"))]


def _ignored(value: Any, at: str) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            kind = one.without_effect if isinstance(one, Lenient) else None
            if kind is not None:
                yield f"{at.removesuffix('.')}[{kind[:_MAX_NAME]}]"
            else:
                yield from _ignored(one, at)
    elif isinstance(value, Lenient):
        for name, given in (value.model_extra or {}).items():
            if given is not None and name not in value.NO_EFFECT:
                yield f"{at}{name[:_MAX_NAME]}"
        for name in type(value).model_fields:
            yield from _ignored(getattr(value, name), f"{at}{name}.")
