"""Translates a client's JSON Schema into keywords that llama.cpp honours, or refuses it.

Rule 1: an engine ignores in silence what it can't do. So a schema is rebuilt from an allow-list of
keywords. Annotations are left out; any other keyword is refused by its name and path.

Rule 2: the translation may allow less than the client's schema, never more. Objects that list
their properties are closed, formats become patterns, and ``oneOf`` becomes ``anyOf`` once its
options are known to exclude each other.

Rule 3: a keyword is kept only where the engine honours it. ``merged`` marks a schema that the
engine intersects with another one; some keywords are lost or misread there.

LLGuidance's own check can't replace this. It takes patterns that it reads in its own way, counts a
name twice towards ``minProperties``, forgets ``patternProperties`` beside ``properties``, takes
bounds whose compilation ends or stalls the process, and names no path. It refuses ``oneOf`` of
constants and the format ``uri``.
"""

from __future__ import annotations

from typing import Any, Literal, NoReturn, TypeAlias
from urllib.parse import unquote

from reverie.backends.encoding.json_overlap import exclusive, fits, is_number, types_of
from reverie.backends.encoding.json_pattern import FORMATS, plain, portable, without_lookahead
from reverie.backends.encoding.json_reading import read
from reverie.backends.encoding.json_size import shortest
from reverie.errors import UnsupportedParameter

Converter: TypeAlias = Literal["llguidance", "gbnf"]
"""What turns a schema into a constraint. llama.cpp's own, ``gbnf``, honours less."""

_ANNOTATIONS = {
    "$schema", "$id", "$comment", "$anchor", "$defs", "definitions", "id", "title", "description",
    "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator",
    "contentEncoding", "contentMediaType", "contentSchema",
}  # fmt: skip
_COMBINING = ("$ref", "allOf", "anyOf", "oneOf")
_OF_TYPE = {
    "minLength": "string", "maxLength": "string", "pattern": "string", "format": "string",
    "minimum": "number", "maximum": "number", "exclusiveMinimum": "number",
    "exclusiveMaximum": "number", "multipleOf": "number",
    "items": "array", "prefixItems": "array", "minItems": "array", "maxItems": "array",
    "uniqueItems": "array",
    "properties": "object", "required": "object", "additionalProperties": "object",
    "patternProperties": "object", "minProperties": "object", "maxProperties": "object",
}  # fmt: skip
_KNOWN = _ANNOTATIONS | {*_COMBINING, "type", "enum", "const", *_OF_TYPE}

_LONGEST = {"minLength": 10_000, "maxLength": 10_000, "minItems": 500, "maxItems": 500}
"""Larger counts stall all of an engine's requests while it compiles the schema."""
_MOST_OPTIONS = 64
_LONGEST_ANSWER = 32_768
"""Bytes that a schema may require, about; well below where LLGuidance gives up in mid-answer."""
_LARGEST = 2**53
"""Larger numbers aren't exact in an engine's floating point."""


def translate(document: Any, param: str, converter: Converter) -> dict[str, Any]:
    """The schema that an answer is constrained to.

    Args:
        param: the dotted path of the schema within the request.

    Raises:
        UnsupportedParameter: a keyword can't be honoured; ``param`` is its path.
    """
    return _Translation(read(document), param, converter).result()


class _Translation:
    def __init__(self, document: Any, param: str, converter: Converter) -> None:
        self._document = document
        self._param = param
        self._gbnf = converter == "gbnf"
        self._names: dict[tuple[str, bool], str] = {}
        self._pending: list[tuple[str, bool]] = []

    def result(self) -> dict[str, Any]:
        root = self._schema(self._document, self._param, merged=False)
        definitions: dict[str, Any] = {}
        paths = {"": self._param}
        while self._pending:  # one by one: references may be longer than Python's stack is deep
            pointer, merged = self._pending.pop()
            node, path = self._find(pointer, self._param)
            name = self._names[pointer, merged]
            definitions[name] = self._schema(node, path, merged=merged)
            paths[name] = path
        if not isinstance(root, dict):
            self._refuse(self._param, "what no answer fulfils")
        for name, size in shortest({"": root, **definitions}).items():
            if size > _LONGEST_ANSWER:
                self._refuse(paths[name], "what no answer, or only a very long one, fulfils")
        return {**root, "$defs": definitions} if definitions else root

    def _schema(self, node: Any, path: str, *, merged: bool) -> dict[str, Any] | bool:
        if node is True:
            return {}
        if node is False and not self._gbnf:
            return False
        if not isinstance(node, dict):
            self._refuse(path, f"the schema {str(node)[:20]!r}")
        for key in node:
            if key not in _KNOWN and not key.startswith("x-"):
                self._refuse(f"{path}.{key}", key)
        for key in ("$id", "id"):
            if isinstance(node.get(key), str) and path != self._param:
                self._refuse(f"{path}.{key}", f"{key} below the schema's root")
        combining = [key for key in _COMBINING if key in node]
        own = [key for key in _OF_TYPE if key in node]
        valued = [key for key in ("const", "enum") if key in node]
        merges = len(combining) + bool(own or valued) > 1
        if self._gbnf and combining and (merges or "type" in node):
            self._refuse(f"{path}.{combining[0]}", f"{combining[0]} beside other keywords")
        several = isinstance(node.get("allOf"), list) and len(node["allOf"]) > 1
        if self._gbnf and several:
            self._refuse(f"{path}.allOf", "allOf of several schemas")
        merged = merged or merges or several
        if valued:
            if own:
                self._refuse(f"{path}.{own[0]}", f"{own[0]} beside {valued[0]}")
            new = {"enum": self._values(node, f"{path}.{valued[0]}")}
        else:
            new = self._typed(node, own, path, merged)
        for key in combining:
            _add(new, *self._combined(key, node[key], f"{path}.{key}", merged))
        return new

    def _typed(
        self, node: dict[str, Any], own: list[str], path: str, merged: bool
    ) -> dict[str, Any]:
        """The keywords that apply to one type of value each."""
        kinds = types_of(node)
        new: dict[str, Any] = {}
        implied = {_OF_TYPE[key] for key in own}
        if "type" in node:
            new["type"] = list(kinds) if len(kinds) > 1 else node["type"]
        elif len(implied) == 1 and not merged:  # most likely meant, and both converters take it
            kinds = tuple(implied)
            new["type"] = kinds[0]
        if not kinds or (self._gbnf and own and "type" not in new):
            self._refuse(f"{path}.type", "this type")
        if "string" in kinds:
            self._strings(node, path, new)
        if {"number", "integer"} & set(kinds):
            self._numbers(node, kinds, path, new, merged)
        if "array" in kinds:
            self._arrays(node, path, new, merged)
        if "object" in kinds:
            self._objects(node, path, new, merged)
        return new

    # Values, strings, numbers ---------------------------------------------------------------

    def _values(self, node: dict[str, Any], path: str) -> list[Any]:
        values = node.get("enum", [])
        if "const" in node:
            values = [node["const"]] if "enum" not in node else []
        if isinstance(values, list):
            kinds = types_of(node)
            values = [value for value in values if fits(value, kinds)]
        if not isinstance(values, list) or not values or not all(map(_exact, values)):
            self._refuse(path, "these values")
        return values

    def _strings(self, node: dict[str, Any], path: str, new: dict[str, Any]) -> None:
        self._counts(node, ("minLength", "maxLength"), path, new)
        if "pattern" in node:
            new["pattern"] = self._pattern(node["pattern"], f"{path}.pattern")
        if "format" in node:
            pattern = FORMATS.get(str(node["format"]))  # any other is an annotation
            if pattern is not None and self._gbnf and "pattern" in new:
                self._refuse(f"{path}.format", f"this format: {str(node['format'])[:50]}")
            if pattern is not None and "pattern" not in new:
                new["pattern"] = pattern
            elif pattern is not None and node["format"] != "email":  # zod writes both
                _add(new, "pattern", pattern)
        if self._gbnf and "pattern" in new:
            for key in ("minLength", "maxLength"):
                if key in new:
                    self._refuse(f"{path}.{key}", f"{key} beside a pattern or a format")

    def _pattern(self, pattern: Any, path: str) -> str:
        known = plain if self._gbnf else portable
        new = known(without_lookahead(pattern)) if isinstance(pattern, str) else None
        if new is None:
            self._refuse(path, "this pattern")
        return new

    def _numbers(
        self,
        node: dict[str, Any],
        kinds: tuple[str, ...],
        path: str,
        new: dict[str, Any],
        merged: bool,
    ) -> None:
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            if key not in node:
                continue
            bound = node[key]
            integers = "number" not in kinds and isinstance(bound, int)
            if not is_number(bound) or abs(bound) > _LARGEST or (self._gbnf and not integers):
                self._refuse(f"{path}.{key}", f"{key} {str(bound)[:30]}")
            new[key] = bound
        if "multipleOf" in node:
            # Only fractions that are exact in binary mean the same everywhere.
            step = node["multipleOf"]
            exact = is_number(step) and 0 < step <= 65535 and step * 4 == int(step * 4)
            if not exact or self._gbnf or merged:
                self._refuse(f"{path}.multipleOf", f"multipleOf {str(step)[:30]}")
            new["multipleOf"] = step

    # Arrays and objects ---------------------------------------------------------------------

    def _arrays(self, node: dict[str, Any], path: str, new: dict[str, Any], merged: bool) -> None:
        self._counts(node, ("minItems", "maxItems"), path, new)
        if node.get("uniqueItems", False) is not False:
            self._refuse(f"{path}.uniqueItems", "uniqueItems")
        if "prefixItems" in node:
            if self._gbnf:
                self._refuse(f"{path}.prefixItems", "prefixItems")
            new["prefixItems"] = self._list(node["prefixItems"], f"{path}.prefixItems", merged)
        if "items" in node:
            new["items"] = self._schema(node["items"], f"{path}.items", merged=merged)
        elif self._gbnf and ("minItems" in new or "maxItems" in new):
            new["items"] = {}

    def _objects(self, node: dict[str, Any], path: str, new: dict[str, Any], merged: bool) -> None:
        required = node.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            self._refuse(f"{path}.required", "required")
        new |= self._map(node, "properties", path, merged)
        if required:
            new["required"] = list(dict.fromkeys(required))
        known = new.get("properties", {})
        if "patternProperties" in node:
            for key in ("properties", "required"):
                if key in node:
                    self._refuse(f"{path}.patternProperties", f"patternProperties beside {key}")
            if self._gbnf or merged:
                self._refuse(f"{path}.patternProperties", "patternProperties here")
            new |= self._map(node, "patternProperties", path, merged)
        listed = set(required) <= set(known)
        if "additionalProperties" in node:
            more, below = node["additionalProperties"], f"{path}.additionalProperties"
            schema = False if more is False else self._schema(more, below, merged=merged)
            new["additionalProperties"] = schema
        elif listed and not merged and ("properties" in new or "patternProperties" in new):
            new["additionalProperties"] = False
        if self._gbnf and not listed:
            self._refuse(f"{path}.required", "required of a name that properties lacks")
        self._sizes(node, path, new, merged)

    def _sizes(self, node: dict[str, Any], path: str, new: dict[str, Any], merged: bool) -> None:
        """Bound the number of properties.

        LLGuidance may write a free name twice, and counts it twice. So one name more than the
        required ones is the most that ``minProperties`` can ask for.
        """
        self._counts(node, ("minProperties", "maxProperties"), path, new)
        needed = len(new.get("required", ()))
        optional = set(new.get("properties", ())) - set(new.get("required", ()))
        closed = new.get("additionalProperties") is False and "patternProperties" not in new
        if new.get("minProperties", needed + 1) <= needed:
            del new["minProperties"]
        if closed and new.get("maxProperties", 0) >= needed + len(optional):
            new.pop("maxProperties", None)
        for key in ("minProperties", "maxProperties"):
            if key not in new:
                continue
            one_of_them = closed and key == "minProperties" and "maxProperties" not in new
            twice = key == "minProperties" and new[key] > needed + 1
            if self._gbnf or merged or twice or (optional and not one_of_them):
                self._refuse(f"{path}.{key}", f"{key} {new[key]} of these properties")

    def _counts(
        self, node: dict[str, Any], keys: tuple[str, ...], path: str, new: dict[str, Any]
    ) -> None:
        for key in keys:
            if key in node:
                count = node[key]
                if (
                    not is_number(count)
                    or count != int(count)
                    or not 0 <= count <= _LONGEST.get(key, 500)
                ):
                    self._refuse(f"{path}.{key}", f"{key} {str(count)[:30]}")
                new[key] = int(count)

    # Schemas within the schema --------------------------------------------------------------

    def _combined(self, key: str, value: Any, path: str, merged: bool) -> tuple[str, Any]:
        if key == "$ref":
            return key, self._reference(value, path, merged)
        options = self._list(value, path, merged)
        if key == "oneOf":
            if len(value) > _MOST_OPTIONS or not exclusive(value, self._resolve):
                self._refuse(path, "oneOf of options that may overlap")
            key = "anyOf"
        if key == "allOf" and self._gbnf:
            key = "anyOf"  # the same for a single schema, and read correctly
        return key, options

    def _list(self, value: Any, path: str, merged: bool) -> list[Any]:
        if not isinstance(value, list) or not value:
            self._refuse(path, path.rpartition(".")[2])
        return [
            self._schema(item, f"{path}.{index}", merged=merged) for index, item in enumerate(value)
        ]

    def _map(self, node: dict[str, Any], key: str, path: str, merged: bool) -> dict[str, Any]:
        if key not in node:
            return {}
        if not isinstance(node[key], dict):
            self._refuse(f"{path}.{key}", key)
        new: dict[str, Any] = {}
        for name, schema in node[key].items():
            below = f"{path}.{key}.{name}"
            kept = self._pattern(name, below) if key == "patternProperties" else name
            new[kept] = self._schema(schema, below, merged=merged)
        return {key: new}

    def _reference(self, pointer: Any, path: str, merged: bool) -> str:
        self._find(pointer, path)
        key = (pointer, merged)
        if key not in self._names:
            self._names[key] = str(len(self._names))
            self._pending.append(key)
        return f"#/$defs/{self._names[key]}"

    def _find(self, pointer: Any, path: str) -> tuple[Any, str]:
        """The schema that a reference points to, and that schema's dotted path."""
        if not isinstance(pointer, str) or (pointer != "#" and not pointer.startswith("#/")):
            self._refuse(path, "$ref to anything but a place in this schema ('#/…')")
        node, found = self._document, self._param
        for part in unquote(pointer).split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and part.isdecimal() and int(part[:9]) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                self._refuse(path, "$ref to a place that the schema lacks")
            found = f"{found}.{part}"
        return node, found

    def _resolve(self, node: Any) -> Any:
        """The schema that a reference points to, through others; any other schema as it is."""
        for _ in range(16):
            if not isinstance(node, dict) or "$ref" not in node:
                return node
            node = self._find(node["$ref"], self._param)[0]
        return {}

    def _refuse(self, path: str, what: str) -> NoReturn:
        raise UnsupportedParameter(
            f"This model's engine can't constrain an answer to {what}.", param=path
        )


def _add(new: dict[str, Any], key: str, value: Any) -> None:
    """Add a keyword to a schema, by ``allOf`` if it has the keyword already."""
    if key == "allOf":
        new["allOf"] = [*new.get("allOf", ()), *value]
    elif key in new:
        new["allOf"] = [*new.get("allOf", ()), {key: value}]
    else:
        new[key] = value


def _exact(value: Any) -> bool:
    """True if an engine keeps a value as it is."""
    if isinstance(value, list | dict):
        return all(map(_exact, value if isinstance(value, list) else value.values()))
    return not is_number(value) or abs(value) <= _LARGEST
