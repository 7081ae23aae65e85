"""The settings: ``reverie.toml``, environment variables and flags → frozen models.

Flags override environment variables, which override the file, which overrides the defaults. A
variable is named for its section and key: ``REVERIE_SERVER_QUEUE_SIZE`` is ``[server]
queue_size``. Unknown keys are mistakes. Each mistake is reported with the place where it was
written, its key, and what would be accepted.

Durations are in seconds, sizes in bytes. The docstrings of the keys are the text of
``docs/configuration.md``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
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
from reverie.money import Price, parse_price
from reverie.paths import state_directory
from reverie.tasks import Task
from reverie.text import printable, require_printable

__all__ = ["Settings", "load"]

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_MODEL_ALIASES = ("HuggingFaceTB/SmolLM2-135M-Instruct",)
"""Repeated from the catalogue, which can't be imported here since it lies above the settings."""
CONFIG_FILE = "reverie.toml"
NO_STORE = "none"
FOREVER = "forever"
LEAST_KEPT_DAYS = 2
"""For which a request is kept: its answer is replayed for a day, and a journal comes to the store
when its machine is back."""
STORE_FILE = "reverie.db"
"""The default store's file. Earlier versions kept it in the working directory."""
_DAY = 86_400.0
_MIB = 1024 * 1024

BackendKind = Literal["generic", "llamacpp", "vllm", "sglang", "ollama", "openai", "livepeer"]
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9.\[\]:_-]*(?::\*)?")
"""A scheme and an authority, whose port may be ``*``."""

CLUSTER_PORT = 6379
"""Where a cluster's head listens, unless another port is given."""
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_ENGINES = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")

AnyKind = Literal["auto", BackendKind]
_MIN_BATCH = 8
"""Smaller ones make a prompt slower and let others on no sooner."""
CacheType = Literal["auto", "f16", "q8_0"]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class ServerSettings(_Section):
    """``[server]``: the address, who may call, and the bounds of every request."""

    host: str = "127.0.0.1"
    """The address to listen on. Any but loopback needs a key to be set, or `no_auth`."""
    port: int = Field(default=8000, ge=0, le=65535)
    """The port to listen on; 0: a free one, which the log names."""
    no_auth: bool = False
    """Serve callers without a key on any address. Anyone who can reach the port can use it."""
    api_keys_file: Path | None = None
    """A file of SHA-256 hashes of keys, one `HASH NAME` per line. They are valid in addition
    to the keys in `REVERIE_API_KEYS`."""
    trusted_proxies: tuple[str, ...] = Field(default=(), max_length=64)
    """Addresses or networks of proxies, such as `127.0.0.1`, which a proxy over a Unix socket has,
    too. The log names the client that their `X-Forwarded-For` tells. While no key is set, what a
    proxy on this machine passes on counts as local only if it is listed and its headers say so."""
    allow_origins: tuple[str, ...] = Field(default=(), max_length=64)
    """Origins of web pages and desktop apps that may call from a browser (CORS), such as
    `https://chat.example.org`, `http://localhost:*`, `app://obsidian.md` or `null`; `*`: all."""
    ollama: bool = False
    """Answer Ollama's API, too: `/api/chat`, `/api/generate`, `/api/tags` and others.
    `reverie serve --ollama` also listens on Ollama's own port, 127.0.0.1:11434."""
    max_body_bytes: int = Field(default=10 * _MIB, ge=1024, le=1024 * _MIB)
    """A larger request body is refused with 413."""
    body_timeout: float = Field(default=30.0, gt=0, le=_DAY)
    """A request whose body takes longer to arrive is refused with 408."""
    queue_size: int = Field(default=128, ge=0, le=1_000_000)
    """Requests per model that may wait for a slot. When the queue is full, one more is refused
    with 503."""
    queue_timeout: float = Field(default=30.0, gt=0, le=_DAY)
    """A request that has waited this long for a slot is refused with 503."""
    first_token_timeout: float = Field(default=120.0, gt=0, le=_DAY)
    """A backend that sends neither a token nor progress on the prompt for this long has failed;
    the request goes to another backend, or ends with 504."""
    stall_timeout: float = Field(default=30.0, gt=0, le=_DAY)
    """A backend that sends nothing for this long between two tokens has failed."""
    request_timeout: float = Field(default=900.0, gt=0, le=_DAY)
    """A request that runs longer is ended."""
    write_timeout: float = Field(default=60.0, gt=0, le=_DAY)
    """A client that accepts no bytes for this long is disconnected."""
    ping_interval: float = Field(default=15.0, gt=0, le=_DAY)
    """A stream that is silent for this long sends an SSE comment, so that proxies keep it open."""
    commit_delay: float = Field(default=10.0, gt=0, le=_DAY)
    """A stream sends its HTTP status with its first token, or after this long. An error before
    that has a status of its own."""
    resume_grace: float = Field(default=30.0, ge=0, le=3600)
    """A generation with an `Idempotency-Key` runs on for this long after its client has left; at
    most an hour."""
    max_kept_answer: int = Field(default=4 * _MIB, ge=0, le=64 * _MIB)
    """An answer larger than this is not kept for its `Idempotency-Key`; at most 64 MiB."""
    memory_budget_mib: int = Field(default=0, ge=0, le=2**30)
    """Memory, in MiB, that all models which run here may take together, as estimated; 0: no
    limit. Idle models are unloaded to make room."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes that serve requests, side by side on the same address. More than one needs a store:
    see [several cores](operations.md#several-cores)."""
    drain_timeout: float = Field(default=30.0, ge=0, le=_DAY)
    """After SIGTERM or Ctrl-C, running requests have this long to finish."""
    access_log: Path | None = None
    """A file that gets a line for each HTTP request, in the combined log format; `-`: standard
    output. See [logs](logs.md#the-access-log)."""
    log_format: Literal["text", "json"] = "text"
    """The format of log lines, which go to standard error."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Less severe lines are not logged."""

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                ip_network(one, strict=False)
            except ValueError:
                raise ValueError(
                    "must be addresses or networks, such as 127.0.0.1 or 10.0.0.0/8"
                ) from None
        return value

    @field_validator("allow_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            if one not in ("*", "null") and not _ORIGIN.fullmatch(one):
                raise ValueError(
                    "must be origins, such as https://chat.example.org or http://localhost:*, "
                    "without a path; or * for all"
                )
        return value


def _default_store() -> str:
    """One store a user, whatever directory a command is given in.

    Raises:
        ConfigurationError: there is no state directory.
    """
    try:
        file = state_directory().absolute() / STORE_FILE
    except ConfigurationError:
        raise ConfigurationError(
            ["store.url: there is no home folder to keep a store in: set it, or XDG_STATE_HOME"]
        ) from None
    written = str(file).replace("%", "%25").replace("?", "%3F")  # as a URL's path has them
    return f"sqlite:///{written}"


def days_of(text: str) -> int:
    """The number in ``400d``; 0 if it isn't written so."""
    found = re.fullmatch(r"([0-9]{1,5})d", text)
    return int(found[1]) if found else 0


class StoreSettings(_Section):
    """``[store]``: where keys, limits and usage are kept."""

    url: str = Field(
        default_factory=_default_store,
        json_schema_extra={"default": f"`{STORE_FILE}` in the state directory"},
    )
    """`sqlite:///FILE`, `postgresql://USER@HOST/DATABASE`, or `none` to keep no accounts. FILE is
    relative to the working directory, or begins with a `/` of its own. The state directory is
    `$XDG_STATE_HOME/reverie`, by default `~/.local/state/reverie`."""
    durability: Literal["process", "power"] = "process"
    """What an acknowledged request survives: `process`, the death of this process (`kill -9`);
    `power`, also a loss of power (fsync)."""
    timeout: float = Field(default=3.0, gt=0, le=60)
    """Requests are refused with 503 when the database takes longer; at most 60."""
    kept_answers_mib: int = Field(default=1024, ge=1, le=1024 * 1024)
    """MiB that all answers kept for an `Idempotency-Key` may take together. The oldest are
    dropped first."""
    keep_requests: str = FOREVER
    """For how long the ledger's row of each request is kept, in days, as in `400d`, at least `2d`;
    or `forever`. Usage by key, model, tag and day is kept for ever, and limits and budgets don't
    change: see [retention](backup.md#retention)."""

    @field_validator("keep_requests")
    @classmethod
    def _days(cls, value: str) -> str:
        value = value.strip()
        if value != FOREVER and not LEAST_KEPT_DAYS <= days_of(value) <= 36_500:
            raise ValueError("should be a number of days such as 400d, at least 2d, or forever")
        return value

    @property
    def kept_days(self) -> int | None:
        """Days for which requests are kept; None: for ever."""
        return None if self.keep_requests == FOREVER else days_of(self.keep_requests)


class TracesSettings(_Section):
    """``[traces]``: where a trace of each request is sent ([traces](traces.md))."""

    endpoint: str | None = None
    """The http(s) URL of a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318`;
    `/v1/traces` is appended unless the URL ends in `/traces`. None: there are no traces, unless
    OpenTelemetry's own [environment variables](traces.md#opentelemetrys-environment-variables) name
    one. It needs `pip install "reverie[otel]"`."""
    sample: float = Field(default=1.0, ge=0, le=1)
    """The share of requests that are traced, of those whose caller's `traceparent` doesn't say
    whether to."""
    content: bool = False
    """Send prompts and answers, too. Whoever can read the traces can read them then."""
    conventions: Literal["1.41", "latest"] = "1.41"
    """The version of OpenTelemetry's conventions for generative AI whose names are used: `1.41`, or
    `latest`, which may change with each release."""
    headers_env: str | None = None
    """The environment variable that holds headers for the collector, as in
    `Authorization=Bearer%20KEY,X-Scope-OrgID=1`. They are never written here."""

    @field_validator("endpoint")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        return None if value is None else _collector(value)


def _collector(value: str) -> str:
    """A collector's URL.

    Raises:
        ValueError: it can't be one.
    """
    parts = urlsplit(value)
    if " " in require_printable(value):
        raise ValueError("must not have spaces")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL, such as http://127.0.0.1:4318")
    if parts.username or parts.password:
        raise ValueError("must not carry a password; name the headers' variable in headers_env")
    if "?" in value or "#" in value:
        raise ValueError("must end before the ? of a query or the # of a fragment")
    return value.rstrip("/")


class ClusterSettings(_Section):
    """``[cluster]``: the machines on which models with `engines` run."""

    address: str
    """The head's `HOST` or `HOST:PORT`, as `reverie cluster head` prints it; port 6379 if none is
    given."""
    token_file: Path | None = None
    """A file that holds the cluster's token; none: `REVERIE_CLUSTER_TOKEN` holds it, or it is where
    `reverie cluster` on this machine put it."""
    idle: float = Field(default=60.0, ge=1, le=30 * _DAY)
    """An engine above a model's least number is stopped after its requests didn't need it for
    this long."""
    tls_cert: Path | None = None
    """With `tls_key` and `tls_ca`: all of the cluster speaks TLS. This machine's certificate."""
    tls_key: Path | None = None
    """The key of `tls_cert`."""
    tls_ca: Path | None = None
    """The certificate that signed those of all machines, and no others."""

    @field_validator("address")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or host.endswith(":"):  # no port, or an IPv6 address without one
            host, port = value, str(CLUSTER_PORT)
        if not _HOST.fullmatch(host) or not port.isdecimal() or not 0 < int(port) <= 65535:
            raise ValueError("must be HOST or HOST:PORT, such as 10.0.0.1:6379")
        return f"{host}:{port}"

    @model_validator(mode="after")
    def _tls_whole(self) -> Self:
        given = [self.tls_cert, self.tls_key, self.tls_ca]
        if any(given) and not all(given):
            raise ValueError("tls_cert, tls_key and tls_ca are given together, or none of them")
        return self


class PriceSettings(_Section):
    """``[models.price]``: what a million tokens cost, as in `"0.18USD"`. All in one currency."""

    input: str = "0USD"
    """A million prompt tokens."""
    output: str = "0USD"
    """A million completion tokens."""
    cached: str | None = None
    """A million prompt tokens that the engine had in its cache; none: the same as `input`."""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        currencies = {parse_price(text).currency for text in self._written}
        if len(currencies) > 1:
            raise ValueError("all prices of a model are in one currency")
        return self

    @property
    def per_token(self) -> Price:
        """The same in nano-units."""
        read, written, cached = map(parse_price, self._written)
        return Price(read.nano, cached.nano, written.nano, read.currency)

    @property
    def _written(self) -> list[str]:
        return [self.input, self.output, self.cached or self.input]


class LimitSettings(_Section):
    """``[models.limits]``: what all callers of a model may use together."""

    rpm: int | None = Field(default=None, ge=1, le=10**12)
    """Requests in any 60 seconds."""
    tpm: int | None = Field(default=None, ge=1, le=10**12)
    """Prompt and completion tokens in any 60 seconds."""
    concurrency: int | None = Field(default=None, ge=1, le=10**12)
    """Requests at once, including those that wait for a slot."""


class DefaultSettings(_Section):
    """``[models.defaults]``: what holds where a request doesn't name a field, in every dialect."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    """How freely tokens are chosen; 0 always takes the most likely one."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Choose among the most likely tokens that together have this probability."""
    top_k: int | None = Field(default=None, ge=-1, le=2**31 - 1)
    """Choose among this many of the most likely tokens; -1 or 0 is off."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Leave out tokens that are less likely than this share of the top token's probability."""
    max_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """An answer is cut after this many tokens."""
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    """Divides the logits of tokens that occurred; 1 is off."""


class BackendSettings(_Section):
    """``[[models.backends]]``: a server that serves the model."""

    url: str
    """The base URL, as in `http://127.0.0.1:9100/v1`, to which `/chat/completions` (for
    `livepeer`: `/llm`) is appended. It has no query and no credentials. A Unix socket is
    `http+unix://%2Fpath%2Fto.sock/v1`."""
    model: str | None = None
    """The model's name on that server; none: the same name as here."""
    kind: AnyKind = "auto"
    """The kind of engine, which decides the fields that it is known to honour. `generic` is
    trusted with all of them. `auto`: what the server's list of models says it is, else
    `generic`."""
    api_key_env: str | None = None
    """The environment variable that holds the key for that server. The key itself is never
    written here."""
    continues: bool | None = None
    """Whether it can continue an answer that another backend broke off
    (`continue_final_message`), or that its client began; none: only `llamacpp`, `vllm` and
    `sglang` can."""
    vision: bool = False
    """Whether the model sees images there (`image_url` parts with `data:` URLs)."""
    image_urls: bool = False
    """Whether images may also be http(s) URLs, which that server fetches itself, from wherever it
    stands in your network. It needs `vision`."""
    slots: int = Field(default=64, ge=1, le=100_000)
    """Requests that may run there at once. Others wait in this gateway's queue."""
    weight: float = Field(default=1.0, ge=0.01, le=100)
    """Its share of the model's requests, relative to other backends with as many slots."""
    connect_timeout: float = Field(default=5.0, gt=0, le=_DAY)
    """A backend that has not accepted a connection after this long has failed."""

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
    def _continues_only_if_it_can_be_asked(self) -> Self:
        if self.continues and self.kind == "livepeer":
            raise ValueError("continues: a livepeer backend can't be asked to continue an answer")
        return self

    @model_validator(mode="after")
    def _sees_only_where_it_can(self) -> Self:
        if self.image_urls and not self.vision:
            raise ValueError("image_urls: needs vision = true")
        if self.vision and self.kind == "livepeer":
            raise ValueError("vision: a livepeer backend can't be sent images")
        return self

    @property
    def key(self) -> SecretStr | None:
        """The key, if ``aiModels.json`` gave it instead of a variable. Never shown or logged."""
        return self._key

    def with_key(self, key: SecretStr) -> Self:
        """The same settings with this key."""
        keyed = self.model_copy()
        keyed._key = key
        return keyed


class ModelSettings(_Section):
    """``[[models]]``: one model, which runs here (`source`) or on other servers (`backends`)."""

    name: str = Field(min_length=1, max_length=200)
    """The name by which requests ask for it."""
    aliases: tuple[str, ...] = ()
    """Other names by which requests may ask for it."""
    default: bool = False
    """Serve requests that name no model. If no model has this, the first one is the default."""
    source: str | None = None
    """A model to run here: a catalogue name, `hf:OWNER/REPO[/FILE.gguf]`, or a path."""
    backends: tuple[BackendSettings, ...] = ()
    """The servers that serve it."""
    task: Task = "generate"
    """What it is for: to generate text, to embed it (`/v1/embeddings`), or to rank it
    (`/v1/rerank`)."""
    price: PriceSettings = PriceSettings()
    """What its tokens cost."""
    limits: LimitSettings = LimitSettings()
    """What all its callers may use together."""
    defaults: DefaultSettings = DefaultSettings()
    """What holds where a request doesn't say otherwise. The default model has
    [its own](models.md#a-models-own-defaults) unless something is set here."""
    engine: str = "xllamacpp"
    """What runs it: `xllamacpp` (llama.cpp in a wheel), or the path of a `llama-server`."""
    slots: int = Field(default=8, ge=1, le=256)
    """Requests that run at once. Others wait in the queue."""
    context: int = Field(default=0, ge=0, le=2**24)
    """Tokens that one request may use, prompt and completion together; 0: as many as the model
    was trained for, at most 32768."""
    kv_tokens: int = Field(default=0, ge=0, le=2**30)
    """Tokens that all running requests may use together. Memory for them is taken at the start.
    0: twice the context if that is at most 32768, else 32768 or one whole context."""
    batch: int = Field(default=0, ge=0, le=2**16)
    """Prompt tokens that are processed in one step, 8 or more. A smaller batch lets a long prompt
    hold up other requests less. 0: what `reverie tune` chose, else 512 on a GPU, and on a CPU twice
    as many as `slots`, at least 16."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads; 0: what `reverie tune` chose, else one per physical core."""
    gpu_layers: int = Field(default=-1, ge=-1, le=10_000)
    """Layers to put on a GPU; -1: as many as fit into its memory."""
    cache_type_k: CacheType = "auto"
    """How the keys of the KV cache are stored. On a CPU, `q8_0` makes a greedy answer that was
    broken off continue as it would have, and slows long prompts. `auto`: `q8_0` if the
    `xllamacpp` engine runs on a CPU, else `f16`."""
    cache_mib: int = Field(default=256, ge=0, le=2**20)
    """Memory, in MiB, that keeps the prompts of finished requests for reuse."""
    warm: bool = True
    """Load the model at the start. If false, the first request that asks for it loads it."""
    idle_unload: float = Field(default=0, ge=0, le=30 * _DAY)
    """Unload the model after this long without a request, at most 30 days; 0: never."""

    engines: str = ""
    """Run it on the machines of `[cluster]`: so many engines, as in `3`, or as many as requests
    need, as in `1-3` or `0-3`. It needs `source`. None: run it on this machine."""
    gpus: float = Field(default=0.0, ge=0, le=64)
    """GPUs that each of these engines needs; 0.5: half of one. 0: it runs on the CPU, and sees no
    GPU."""

    @field_validator("name")
    @classmethod
    def _printable(cls, value: str) -> str:
        return require_printable(value)

    @field_validator("aliases")
    @classmethod
    def _all_printable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(require_printable, value))

    @field_validator("engines", mode="before")
    @classmethod
    def _a_number_or_two(cls, value: Any) -> str:
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(text, str) or (text and not _ENGINES.fullmatch(text)):
            raise ValueError("should be a number such as 3, or two such as 1-3")
        least, most = _bounds(text) if text else (1, 1)
        if most < 1 or least > most:
            raise ValueError("should be a number above 0, or two such as 1-3, the lesser first")
        return text

    @field_validator("gpus")
    @classmethod
    def _whole_or_a_part_of_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("should be a whole number, or a part of one GPU such as 0.5")
        return value

    @field_validator("batch")
    @classmethod
    def _not_tiny(cls, value: int) -> int:
        if 0 < value < _MIN_BATCH:
            raise ValueError(f"should be 0, or {_MIN_BATCH} or more")
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.source) == bool(self.backends):
            raise ValueError("needs either source (run it here) or backends (reach it elsewhere)")
        return self

    @model_validator(mode="after")
    def _runs_in_a_cluster(self) -> Self:
        if self.engines and not self.source:
            raise ValueError("engines: needs source, the model that they run")
        if self.gpus and not self.engines:
            raise ValueError("gpus: needs engines, which run in a cluster")
        if self.engines and (self.idle_unload or not self.warm):
            raise ValueError(
                "warm and idle_unload: are for a model on this machine: with engines, write "
                'engines = "0-3" and cluster.idle, so that none runs while nobody asks'
            )
        return self

    @property
    def engine_bounds(self) -> tuple[int, int] | None:
        """The least and the most engines of it in the cluster; None: it runs here."""
        return _bounds(self.engines) if self.engines else None

    @model_validator(mode="after")
    def _can_be_asked_to(self) -> Self:
        if self.task != "generate" and any(one.kind == "livepeer" for one in self.backends):
            raise ValueError(f"task: a livepeer backend can't {self.task}, it generates text")
        return self


def _bounds(engines: str) -> tuple[int, int]:
    least, _, most = engines.partition("-")
    return int(least), int(most or least)


class Settings(_Section):
    """Everything that `reverie serve` needs to know."""

    server: ServerSettings = ServerSettings()
    store: StoreSettings = Field(default_factory=StoreSettings)
    cluster: ClusterSettings | None = None
    traces: TracesSettings = TracesSettings()
    models: tuple[ModelSettings, ...] = (
        ModelSettings(
            name=DEFAULT_MODEL, aliases=DEFAULT_MODEL_ALIASES, source=DEFAULT_MODEL, default=True
        ),
    )

    _file: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if not self.models:
            raise ValueError("models: needs at least one; leave it out for the default model")
        seen: set[str] = set()
        for model in self.models:
            for name in (model.name, *model.aliases):
                if name in seen:
                    raise ValueError(f"two models are called {name!r}; names and aliases differ")
                seen.add(name)
        if self.server.workers > 1 and self.store.url == NO_STORE:
            raise ValueError(
                "server.workers: more than one needs a store, through which they keep limits and "
                "Idempotency-Keys together: set store.url, or workers = 1"
            )
        distributed = next((model.name for model in self.models if model.engines), None)
        if distributed is not None and self.cluster is None:
            raise ValueError(
                f"model {distributed}: engines needs a cluster to run on: write [cluster] with "
                "its address, or leave engines out to run the model here"
            )
        if self.cluster is not None and self.server.workers > 1:
            raise ValueError(
                "server.workers: a gateway of a cluster is one process: start several gateways, "
                "which share its engines, or set workers = 1"
            )
        if sum(model.default for model in self.models) > 1:
            raise ValueError("only one model can have default = true")
        return self

    @property
    def default_model(self) -> ModelSettings:
        return next((model for model in self.models if model.default), self.models[0])

    @property
    def file(self) -> Path | None:
        """The file that these were read from; None if there was none, or no key in it."""
        return self._file

    def with_file(self, file: Path) -> Self:
        """The same settings, marked as read from ``file``."""
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
    is_reload: bool = False,
) -> Settings:
    """Read the configuration.

    Args:
        config: the file; None reads ``reverie.toml`` in the working directory if it is there.
        flags: sections of values from the command line, such as ``{"server": {"port": 1}}``.
        only_model: serve this one instead of the file's models.
        models: from another file. The configuration must have none then, since both to merge two
            lists and to ignore one of them would surprise.
        is_reload: as in ``files.read_whole``.

    Raises:
        ConfigurationError: with every mistake that was found.
    """
    file = config if config is not None else Path(CONFIG_FILE)
    written = _read_file(file, required=config is not None, is_reload=is_reload)
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
        first = mistakes[:MOST_PROBLEMS]
        raise ConfigurationError(
            [_explain(mistake, str(file), variables, given) for mistake in first],
            more=len(mistakes) - len(first),
        ) from None
    return settings.with_file(file) if any(written.values()) else settings


def _read_file(file: Path, *, required: bool, is_reload: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(read_whole(file, is_reload=is_reload).decode())
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


_SECTIONS: dict[str, type[_Section]] = {
    "server": ServerSettings,
    "store": StoreSettings,
    "traces": TracesSettings,
}
_TABLES: dict[str, type[_Section]] = {
    **_SECTIONS,
    "cluster": ClusterSettings,
    "models": ModelSettings,
    "backends": BackendSettings,
    "price": PriceSettings,
    "limits": LimitSettings,
    "defaults": DefaultSettings,
}
"""What may be in each table, by its key."""


def variable_of(section: str, key: str) -> str:
    """The environment variable that sets ``[section] key``."""
    return f"REVERIE_{section}_{key}".upper()


def _read_environment(environ: Mapping[str, str]) -> dict[str, dict[str, str | list[str]]]:
    """The values of ``_SECTIONS`` that are set by variables. Models have none."""
    return {
        section: values
        for section, model in _SECTIONS.items()
        if (
            values := {
                key: _items(environ[variable]) if field.annotation in _LISTS else environ[variable]
                for key, field in model.model_fields.items()
                if (variable := variable_of(section, key)) in environ
            }
        )
    }


_LISTS = (tuple[str, ...],)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


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
        model = _TABLES.get(part, model)
    return sorted(model.model_fields)
