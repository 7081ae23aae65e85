"""Livepeer's ``aiModels.json`` → models, as if they had been written in ``reverie.toml``.

The file is the one that an orchestrator reads (``AIModelConfig`` in go-livepeer's ``core/ai.go``).
Entries of the pipeline ``llm`` are served. What has no meaning here is a *remark* and never an
error, since the file is written for other software, too.

Rule 1: an entry's ``token`` is secret. It goes into ``BackendSettings.with_key``, nowhere else.

Rule 2: a price is kept exactly or not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

from reverie.errors import ConfigurationError, ModelError
from reverie.files import read_whole
from reverie.models.catalogue import CatalogueEntry
from reverie.models.reference import parse
from reverie.money import NANO
from reverie.settings import BackendSettings, ModelSettings, PriceSettings
from reverie.text import printable, require_printable

PIPELINE = "llm"
_WITHOUT_EFFECT = ("gateway", "optimization_flags")
_SOURCE_KEYS = {"name": "model_id", "source": "model_id", "slots": "capacity"}
"""Keys of our settings → the keys of the file that they come from."""
_PRICE = re.compile(r"(\d+(?:\.\d+)?(?:[eE][-+]?\d{1,2})?)([A-Za-z]*)", re.ASCII)
_MAX_DIGITS = 40
"""Digits of a number before or after its point."""
_PER_MILLION = 10**6


class AiModels(NamedTuple):
    """The content of a file."""

    models: tuple[ModelSettings, ...]
    remarks: tuple[str, ...]
    """A sentence for each part of the file that has no effect here."""


def _amount(value: object) -> int | Decimal | str:
    """A number, or text as Livepeer's documentation has it: ``"0.5e-2USD"``."""
    if isinstance(value, str) and _PRICE.fullmatch(value):
        return value
    return _number(value)


def _number(value: object) -> int | Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a number")
    if value < 0:
        raise ValueError("must not be negative")
    if abs(Decimal(value).adjusted()) > _MAX_DIGITS:
        raise ValueError("is out of bounds")
    return value or 0  # -0.0 has a sign


def _whole(value: object) -> int:
    number = _number(value)
    if number < 1 or number != int(number):
        raise ValueError("must be a whole number of at least 1")
    return int(number)


_Text: TypeAlias = Annotated[str, AfterValidator(require_printable)]


class _Entry(BaseModel):
    """One entry of the pipeline ``llm``."""

    model_config = ConfigDict(extra="allow", strict=True)

    pipeline: str
    model_id: _Text
    url: _Text = ""
    token: SecretStr = SecretStr("")
    warm: bool | None = None
    capacity: int = Field(default=0, ge=0)
    price_per_unit: Annotated[Any, BeforeValidator(_amount)] = 0
    pixels_per_unit: Annotated[int, BeforeValidator(_whole)] = 1
    currency: _Text = ""

    @property
    def slots(self) -> int:
        return self.capacity or 1  # Livepeer's default


def read(file: Path, *, is_reload: bool = False) -> AiModels:
    """Read a file.

    Args:
        is_reload: as in ``files.read_whole``.

    Raises:
        ConfigurationError: with every mistake that was found: the file, the entry's index, the key.
    """
    return _EntryReader(file, is_reload).read()


class _EntryReader:
    """Reads one file, and collects its problems and remarks."""

    def __init__(self, file: Path, is_reload: bool) -> None:
        self._file = file
        self._is_reload = is_reload
        self._problems: list[str] = []
        self._remarks: list[str] = []
        self._models: dict[str, ModelSettings] = {}

    def read(self) -> AiModels:
        written = _load(self._file, self._is_reload)
        entries = {}
        for index, raw in enumerate(written):
            entry = self._entry(index, raw)
            if entry is not None:
                entries[index] = entry
        names = {entry.model_id for entry in entries.values()}
        for index, entry in entries.items():
            self._add(index, entry, names)
        if not entries and not self._problems:
            self._problems.append(f"{self._file}: no entry has the pipeline {PIPELINE}")
        if self._problems:
            raise ConfigurationError(self._problems)
        return AiModels(tuple(self._models.values()), tuple(self._remarks))

    def _problem(self, index: int, key: str, what: str) -> None:
        self._problems.append(f"{self._file}: [{index}]{key and '.'}{key}: {what}")

    def _remark(self, index: int, key: str, what: str) -> None:
        self._remarks.append(f"{self._file}: [{index}].{key}: {what}")

    def _entry(self, index: int, raw: object) -> _Entry | None:
        """Read an entry; None if it isn't served here, or has a problem."""
        if not isinstance(raw, dict):
            self._problem(index, "", "must be an object")
            return None
        pipeline = raw.get("pipeline")
        if not isinstance(pipeline, str):
            self._problem(index, "pipeline", "must be a text, as llm")
            return None
        if not pipeline.isprintable():
            self._problem(index, "pipeline", "must not have control characters")
            return None
        if pipeline != PIPELINE:
            what = f"'{printable(pipeline)}' is not served here, only '{PIPELINE}'"
            self._remark(index, "pipeline", what)
            return None
        try:
            entry = _Entry.model_validate(_without_nulls(raw))
        except ValidationError as error:
            self._explain(index, error)
            return None
        for key in entry.model_extra or {}:
            known = key in _WITHOUT_EFFECT
            self._remark(
                index, printable(key), "has no effect here" if known else "is not known here"
            )
        return entry

    def _add(self, index: int, entry: _Entry, names: set[str]) -> None:
        """Add the model of an entry, or add the entry's server to the model of an earlier entry."""
        before = self._models.get(entry.model_id)
        try:
            if before is not None:
                self._models[entry.model_id] = self._merged(index, before, entry)
            elif entry.url:
                self._models[entry.model_id] = ModelSettings(
                    name=entry.model_id,
                    backends=(self._backend(index, entry),),
                    price=self._price(index, entry),
                )
            else:
                self._models[entry.model_id] = self._embedded(index, entry, names)
        except ValidationError as error:
            self._explain(index, error)
        except ModelError as error:
            self._problem(index, "model_id", f"{error} Or give the url of a server that has it.")

    def _backend(self, index: int, entry: _Entry) -> BackendSettings:
        """The server of an entry. Its ``url`` is checked as in ``[[models.backends]]``."""
        backend = BackendSettings(url=entry.url, kind="livepeer", slots=entry.slots)
        token = entry.token.get_secret_value()
        if not (token.isascii() and token.isprintable()):
            self._problem(index, "token", "is no key: it isn't plain text")
            return backend
        return backend.with_key(entry.token) if token else backend

    def _embedded(self, index: int, entry: _Entry, names: set[str]) -> ModelSettings:
        """A model to run here, for an entry without a ``url``.

        Raises:
            ModelError: the entry names no model that can run here.
        """
        reference = parse(entry.model_id)
        known: tuple[str, ...] = ()
        if isinstance(reference, CatalogueEntry):
            known = (reference.name, *reference.aliases)
        if entry.token.get_secret_value():
            self._remark(index, "token", "has no effect without url")
        return ModelSettings(
            name=entry.model_id,
            aliases=tuple(alias for alias in known if alias not in names),
            source=entry.model_id,
            slots=entry.slots,
            warm=entry.warm is not False,
            price=self._price(index, entry),
        )

    def _merged(self, index: int, before: ModelSettings, entry: _Entry) -> ModelSettings:
        """The model with one more server, or with more slots: capacities add up."""
        if bool(before.source) == bool(entry.url):
            where = "is run here" if before.source else "is reached elsewhere"
            self._problem(index, "url", f"{entry.model_id} {where} by an earlier entry")
            return before
        if "price_per_unit" in entry.model_fields_set and self._price(index, entry) != before.price:
            self._remark(index, "price_per_unit", "has no effect: an earlier entry has the price")
        if before.source and entry.warm not in (None, before.warm):
            self._remark(index, "warm", "has no effect: an earlier entry says otherwise")
        if before.source:
            slots = {**before.model_dump(), "slots": before.slots + entry.slots}
            return ModelSettings.model_validate(slots)
        backends = (*before.backends, self._backend(index, entry))
        return before.model_copy(update={"backends": backends})

    def _price(self, index: int, entry: _Entry) -> PriceSettings:
        """The price of a model's tokens.

        Livepeer charges an ``llm`` request for ``max_tokens`` units, however many it uses, and
        nothing for its prompt (``submitLLM`` in go-livepeer's ``server/ai_process.go``). So the
        price of a unit becomes the price of a completion token.
        """
        match = _PRICE.fullmatch(str(entry.price_per_unit))
        assert match is not None
        per_token = Fraction(match[1]) / entry.pixels_per_unit
        if not per_token:
            return PriceSettings()
        currency = (match[2] or entry.currency or "wei").upper()
        if entry.currency and entry.currency.upper() != currency:
            self._remark(index, "currency", "has no effect: price_per_unit names its own")
        if currency in ("WEI", "ETH"):
            why = f"prices in {currency.lower()} are not kept here, only those in money, as USD"
        elif (per_token * NANO).denominator != 1:
            why = f"is no whole number of {printable(currency)} nano-units a token"
        else:
            try:
                output = f"{_decimal(per_token * _PER_MILLION)}{currency}"
                return PriceSettings(input=f"0{currency}", output=output)
            except ValidationError as error:
                why = _reason(error.errors()[0])
        self._remark(index, "price_per_unit", f"{why}; the model's tokens cost nothing here")
        return PriceSettings()

    def _explain(self, index: int, error: ValidationError) -> None:
        for mistake in error.errors(include_input=False):
            key = str(mistake["loc"][0]) if mistake["loc"] else ""
            self._problem(index, _SOURCE_KEYS.get(key, key), _reason(mistake))


def _load(file: Path, is_reload: bool) -> Sequence[object]:
    """Read the list of entries, with exact numbers.

    Raises:
        ConfigurationError: the file can't be read, or holds something else.
    """
    try:
        written = json.loads(
            read_whole(file, is_reload=is_reload), parse_float=Decimal, parse_constant=_refuse
        )
    except FileNotFoundError:
        raise ConfigurationError([f"{file}: there is no such file"]) from None
    except OSError as error:
        raise ConfigurationError([f"{file}: can't be read: {error.strerror}"]) from None
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise ConfigurationError([f"{file}: is not valid JSON: {error}"]) from None
    if not isinstance(written, list):
        raise ConfigurationError([f"{file}: must be a list of entries"])
    return written


def _without_nulls(raw: dict[str, Any]) -> dict[str, Any]:
    """In Go, null means the same as leaving the key out."""
    return {key: value for key, value in raw.items() if value is not None}


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no number of JSON")


def _decimal(value: Fraction) -> str:
    """A fraction whose denominator divides a power of ten, as a decimal."""
    return f"{Decimal(value.numerator) / Decimal(value.denominator):f}"


def _reason(mistake: Any) -> str:
    """The message, without its advice on keys that this file doesn't have."""
    message: str = mistake["msg"]
    return message.removeprefix("Value error, ").partition(";")[0]
