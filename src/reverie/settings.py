"""``reverie.toml``, environment and flags → frozen models.

Flags override environment variables, which override the file, which overrides defaults. A
variable is named for its section and key: ``REVERIE_SERVER_QUEUE_SIZE`` is ``[server]
queue_size``. Unknown keys are mistakes. Each mistake is reported with where it was written, its
key path, and what would be accepted.

Durations are in seconds, sizes in bytes.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from reverie.errors import MOST_PROBLEMS, ConfigurationError
from reverie.files import read_whole
from reverie.money import parse_price
from reverie.text import printable, require_printable

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_MODEL_ALIASES = ("HuggingFaceTB/SmolLM2-135M-Instruct",)
"""As the catalogue has them, which these settings lie under."""
CONFIG_FILE = "reverie.toml"
NO_STORE = "none"
_DAY = 86_400.0
_MIB = 1024 * 1024

BackendKind = Literal["generic", "llamacpp", "vllm", "sglang", "ollama", "openai", "livepeer"]
AnyKind = Literal["auto", BackendKind]
CacheType = Literal["auto", "f16", "q8_0"]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class ServerSettings(_Section):
    """``[server]``: the address, who may call, and the bounds on each request."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything beyond loopback needs a key, or `no_auth`."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one, which is printed."""
    no_auth: bool = False
    """Serve callers without a key on any address. Anyone who can reach the port can use it."""
    api_keys_file: Path | None = None
    """A file of SHA-256 hashes of keys, one `HASH NAME` a line, beside `REVERIE_API_KEYS`."""
    max_body_bytes: int = Field(default=10 * _MIB, ge=1024, le=1024 * _MIB)
    """A larger request body is refused with 413."""
    body_timeout: float = Field(default=30.0, gt=0, le=_DAY)
    """A body that has not arrived by then is refused with 408."""
    queue_size: int = Field(default=128, ge=0, le=1_000_000)
    """Requests that may wait for a slot, per model; one more is refused with 503."""
    queue_timeout: float = Field(default=30.0, gt=0, le=_DAY)
    """A request that has waited this long for a slot is refused with 503."""
    first_token_timeout: float = Field(default=120.0, gt=0, le=_DAY)
    """Without a token, or news of work on the prompt, for this long a backend has failed (504)."""
    stall_timeout: float = Field(default=30.0, gt=0, le=_DAY)
    """A backend that falls silent between two tokens for this long has failed."""
    request_timeout: float = Field(default=900.0, gt=0, le=_DAY)
    """No request runs longer than this."""
    write_timeout: float = Field(default=60.0, gt=0, le=_DAY)
    """A client that takes no bytes for this long is treated as gone."""
    ping_interval: float = Field(default=15.0, gt=0, le=_DAY)
    """A silent stream carries an SSE comment this often."""
    commit_delay: float = Field(default=10.0, gt=0, le=_DAY)
    """A stream's HTTP status stays open until its first token, or for this long."""
    resume_grace: float = Field(default=30.0, ge=0, le=3600)
    """A generation with an `Idempotency-Key` goes on for this long after its client has left; an
    hour at most."""
    max_kept_answer: int = Field(default=4 * _MIB, ge=0, le=64 * _MIB)
    """A larger answer is not kept for its `Idempotency-Key`; 64 MiB at most."""
    memory_budget_mib: int = Field(default=0, ge=0, le=2**30)
    """Memory that the models which run here may take together, by an estimate; 0: any."""
    drain_timeout: float = Field(default=30.0, ge=0, le=_DAY)
    """After SIGTERM, running requests have this long to finish."""
    log_format: Literal["text", "json"] = "text"
    """The shape of log lines, on standard error."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe line that is logged."""


class StoreSettings(_Section):
    """``[store]``: where accounts are kept."""

    url: str = "sqlite:///reverie.db"
    """`sqlite:///FILE`, `postgresql://USER@HOST/DATABASE`, or `none` for no accounts."""
    durability: Literal["process", "power"] = "process"
    """What is acknowledged survives `kill -9` of this process, or the loss of power too (fsync)."""
    timeout: float = Field(default=3.0, gt=0, le=60)
    """Seconds to wait for a slow database; then requests are refused with 503."""
    kept_answers_mib: int = Field(default=1024, ge=1, le=1024 * 1024)
    """Answers kept for their `Idempotency-Key` take this much together; the oldest go first."""


class PriceSettings(_Section):
    """``[models.price]``: money per million tokens, as in `"0.18USD"`."""

    input: str = "0USD"
    """For a million tokens of prompts."""
    output: str = "0USD"
    """For a million tokens of answers."""
    cached: str | None = None
    """For a million tokens of prompts that the engine had in its cache; absent: as `input`."""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        currencies = {parse_price(text).currency for text in self._written}
        if len(currencies) > 1:
            raise ValueError("all prices of a model are in one currency")
        return self

    @property
    def _written(self) -> list[str]:
        return [self.input, self.output, self.cached or self.input]


class LimitSettings(_Section):
    """``[models.limits]``: what all callers of a model may use together."""

    rpm: int | None = Field(default=None, ge=1, le=10**12)
    """Requests in any 60 seconds."""
    tpm: int | None = Field(default=None, ge=1, le=10**12)
    """Tokens in any 60 seconds, prompts and answers together."""
    concurrency: int | None = Field(default=None, ge=1, le=10**12)
    """Requests at once, waiting ones included."""


class BackendSettings(_Section):
    """``[[models.backends]]``: a server that serves the model."""

    url: str
    """The base URL that `/chat/completions` (`livepeer`: `/llm`) is appended to, as in
    `http://127.0.0.1:9100/v1`; without a query."""
    model: str | None = None
    """The model's name there; absent: the same name."""
    kind: AnyKind = "auto"
    """What it is, which decides the fields it is known to honour; `generic` is trusted with all.
    `auto`: what it says in its list of models, else `generic`."""
    api_key_env: str | None = None
    """The environment variable that holds its key. The key itself is never written here."""
    continues: bool | None = None
    """Whether it can go on from an answer that another broke off (`continue_final_message`);
    absent: if it is `llamacpp`, `vllm` or `sglang`."""
    slots: int = Field(default=64, ge=1, le=100_000)
    """Requests that may run there at once; more wait in this gateway's queue."""
    weight: float = Field(default=1.0, ge=0.01, le=100)
    """Its share of the model's requests, next to other backends with as many slots."""
    connect_timeout: float = Field(default=5.0, gt=0, le=_DAY)
    """Seconds to wait for a connection."""

    _key: SecretStr | None = PrivateAttr(default=None)

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        if " " in require_printable(value):
            raise ValueError("must not have spaces")
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https", "http+unix") or not (parts.netloc or parts.path):
            raise ValueError("must be an http://, https:// or http+unix:// URL")
        if parts.username or parts.password:
            raise ValueError("must not carry a password; name the key's variable in api_key_env")
        if "?" in value or "#" in value:
            raise ValueError(
                "must end before the ? of a query or the # of a fragment, which would not be sent; "
                "name the key's variable in api_key_env"
            )
        return value.rstrip("/")

    @field_validator("model")
    @classmethod
    def _printable(cls, value: str | None) -> str | None:
        return None if value is None else require_printable(value)

    @model_validator(mode="after")
    def _continues_where_that_can_be_asked(self) -> Self:
        if self.continues and self.kind == "livepeer":
            raise ValueError("continues: the livepeer dialect has no words for it")
        return self

    @property
    def key(self) -> SecretStr | None:
        """Its key, if another file than ours holds that. It is never shown or written."""
        return self._key

    def with_key(self, key: SecretStr) -> Self:
        """The same server, with its key."""
        keyed = self.model_copy()
        keyed._key = key
        return keyed


class ModelSettings(_Section):
    """``[[models]]``: one model, run here (`source`) or reached elsewhere (`backends`)."""

    name: str = Field(min_length=1, max_length=200)
    """The name that requests and answers carry."""
    aliases: tuple[str, ...] = ()
    """Other names that requests may use."""
    default: bool = False
    """Serve requests that name no model. With one model, it is the default."""
    source: str | None = None
    """A model to run here: a catalogue name, `hf:OWNER/REPO[/FILE.gguf]`, or a path."""
    backends: tuple[BackendSettings, ...] = ()
    """Servers that serve this model."""
    price: PriceSettings = PriceSettings()
    """What its tokens cost."""
    limits: LimitSettings = LimitSettings()
    """What all its callers may use together."""
    engine: str = "xllamacpp"
    """What runs it: `xllamacpp` (llama.cpp inside a wheel) or the path of a `llama-server`."""
    slots: int = Field(default=8, ge=1, le=256)
    """Requests that run at once."""
    context: int = Field(default=0, ge=0, le=2**24)
    """Tokens one request may use, prompt and answer; 0: what the model was trained for, ≤ 32768."""
    kv_tokens: int = Field(default=0, ge=0, le=2**30)
    """Tokens that all slots hold together; 0: twice the context, if that is ≤ 32768."""
    batch: int = Field(default=128, ge=8, le=2**16)
    """Prompt tokens processed in one step. Smaller: long prompts hold others up less."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads; 0 takes one a core."""
    gpu_layers: int = Field(default=-1, ge=-1, le=10_000)
    """Layers to put on a GPU; -1 decides by its memory."""
    cache_type_k: CacheType = "auto"
    """How keys of the context are held. On a CPU, `q8_0` lets a greedy answer that was cut go on
    as it would have, and slows long prompts. `auto`: `q8_0` where the wheel's engine runs on a CPU,
    else `f16`."""
    cache_mib: int = Field(default=256, ge=0, le=2**20)
    """Memory for prompts kept warm beyond the slots, in MiB."""
    warm: bool = True
    """Load it at the start; false: when the first request asks for it."""
    idle_unload: float = Field(default=0, ge=0, le=30 * _DAY)
    """Unload it when nobody has used it for so many seconds, at most 30 days; 0: never."""

    @field_validator("name")
    @classmethod
    def _printable(cls, value: str) -> str:
        return require_printable(value)

    @field_validator("aliases")
    @classmethod
    def _all_printable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(require_printable, value))

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.source) == bool(self.backends):
            raise ValueError("needs either source (run it here) or backends (reach it elsewhere)")
        return self


class Settings(_Section):
    """Everything that `reverie serve` needs to know."""

    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    models: tuple[ModelSettings, ...] = (
        ModelSettings(
            name=DEFAULT_MODEL, aliases=DEFAULT_MODEL_ALIASES, source=DEFAULT_MODEL, default=True
        ),
    )

    _file: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        if not self.models:
            raise ValueError("models: needs at least one; leave it out for the default model")
        seen: set[str] = set()
        for model in self.models:
            for name in (model.name, *model.aliases):
                if name in seen:
                    raise ValueError(f"two models are called {name!r}; names and aliases differ")
                seen.add(name)
        if sum(model.default for model in self.models) > 1:
            raise ValueError("only one model can have default = true")
        return self

    @property
    def default_model(self) -> ModelSettings:
        return next((model for model in self.models if model.default), self.models[0])

    @property
    def file(self) -> Path | None:
        """The file that holds some of this; None: there is none, or nothing in it."""
        return self._file

    def with_file(self, file: Path) -> Self:
        """The same settings, known to be from this file."""
        read = self.model_copy()
        read._file = file
        return read


def load(
    config: Path | None = None,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    only_model: ModelSettings | None = None,
    environ: Mapping[str, str] = os.environ,
    models: Sequence[ModelSettings] | None = None,
    *,
    again: bool = False,
) -> Settings:
    """Read the configuration.

    Args:
        config: the file; None reads ``reverie.toml`` in the working directory if it is there.
        flags: sections of values from the command line, such as ``{"server": {"port": 1}}``.
        only_model: serve this one instead of the file's models.
        models: those of another file. This one must have none then: two lists of models that are
            both heeded, or one of which isn't, would both surprise.
        again: as in ``files.read_whole``.

    Raises:
        ConfigurationError: with every mistake that was found.
    """
    file = config if config is not None else Path(CONFIG_FILE)
    written = _read_file(file, required=config is not None, again=again)
    variables = _read_environment(environ)
    given = {name: dict(section) for name, section in (flags or {}).items()}
    merged: dict[str, Any] = dict(written)
    for layer in (variables, given):
        for section, values in layer.items():
            below = merged.get(section, {})
            merged[section] = {**below, **values} if isinstance(below, dict) else below
    if models is not None and "models" in written:
        raise ConfigurationError(
            [f"{file}: models: the models are given by --ai-models; leave that or these out"]
        )
    if models is not None:
        merged["models"] = list(models)
    if only_model is not None:
        merged["models"] = [only_model]
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_input=False)
        told = mistakes[:MOST_PROBLEMS]
        raise ConfigurationError(
            [_explain(mistake, str(file), variables, given) for mistake in told],
            more=len(mistakes) - len(told),
        ) from None
    return settings.with_file(file) if any(written.values()) else settings


def _read_file(file: Path, *, required: bool, again: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(read_whole(file, again=again).decode())
    except FileNotFoundError:
        if not required:
            return {}
        raise ConfigurationError([f"{file}: there is no such file"]) from None
    except OSError as error:
        raise ConfigurationError([f"{file}: can't be read: {error.strerror}"]) from None
    except ValueError as error:  # of TOML, of UTF-8, or of a number with thousands of digits
        raise ConfigurationError([f"{file}: is not valid TOML: {error}"]) from None
    except RecursionError:
        raise ConfigurationError([f"{file}: is not valid TOML: it is nested too deeply"]) from None


_SECTIONS: dict[str, type[_Section]] = {"server": ServerSettings, "store": StoreSettings}


def variable_of(section: str, key: str) -> str:
    """The environment variable that sets ``[section] key``."""
    return f"REVERIE_{section}_{key}".upper()


def _read_environment(environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Every key of the plain sections has a variable; lists of models have none."""
    return {
        section: values
        for section, model in _SECTIONS.items()
        if (
            values := {
                key: environ[variable]
                for key in model.model_fields
                if (variable := variable_of(section, key)) in environ
            }
        )
    }


def _explain(
    mistake: Any,
    file: str,
    variables: Mapping[str, Mapping[str, Any]],
    flags: Mapping[str, Mapping[str, Any]],
) -> str:
    """One sentence: where, which key, and what is wrong with it."""
    path = mistake["loc"]
    section, key = (str(path[0]), str(path[1])) if len(path) > 1 else ("", "")
    if key in flags.get(section, {}):
        where = "command line"
    elif key in variables.get(section, {}):
        where = f"environment {variable_of(section, key)}"
    else:
        where = file
    dotted = "".join(
        f"[{part}]" if isinstance(part, int) else f".{printable(part)}" for part in path
    )
    message = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "extra_forbidden":
        message = f"unknown key; known here: {', '.join(_known_keys(path))}"
    return f"{where}: {dotted.lstrip('.') or 'the whole'}: {message}"


def _known_keys(path: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path[:-1]:
        if part == "backends":
            model = BackendSettings
        elif part == "models":
            model = ModelSettings
        elif part in _SECTIONS:
            model = _SECTIONS[part]
    return sorted(model.model_fields)
