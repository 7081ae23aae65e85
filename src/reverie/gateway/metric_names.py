"""Every metric there is: its name, its kind, its labels, what it means, how several add up.

The metrics are made from this table, and so is the one in docs/metrics.md. Labels are bounded:
models and backends of the configuration, and words of this program; never a client's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Merge: TypeAlias = Literal["sum", "max", "min", "mean"]


class Definition(NamedTuple):
    """One metric.

    ``merge`` makes one value of those that the workers of a gateway have.
    """

    name: str
    kind: Kind
    section: str
    meaning: str
    labels: tuple[str, ...] = ()
    merge: Merge = "sum"
    buckets: tuple[float, ...] = ()

    @property
    def family(self) -> str:
        """Its name as a family: a counter's is without its ending."""
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name


_table: dict[str, Definition] = {}
TABLE: Mapping[str, Definition] = _table
"""All of them by name, in the order in which they are documented."""

_sections: list[str] = []
"""Titles of the documentation: a metric belongs to the last one before it."""


def _add(definition: Definition) -> Definition:
    assert definition.name not in _table
    _table[definition.name] = definition
    return definition


def _counter(name: str, meaning: str, *labels: str) -> Definition:
    return _add(Definition(name, "counter", _sections[-1], meaning, labels))


def _gauge(name: str, meaning: str, *labels: str, merge: Merge = "sum") -> Definition:
    return _add(Definition(name, "gauge", _sections[-1], meaning, labels, merge))


def _histogram(name: str, meaning: str, *labels: str, buckets: tuple[float, ...]) -> Definition:
    return _add(Definition(name, "histogram", _sections[-1], meaning, labels, buckets=buckets))


_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WHOLE = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_COMMITS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

_sections.append("Requests")
REQUESTS = _counter(
    "reverie_requests_total",
    "Requests, by how they ended: `outcome` is as in the request's log line. The model is "
    "`none` where a request was refused before its model was known.",
    "model",
    "status",
    "outcome",
)
CANCELLATIONS = _counter(
    "reverie_cancellations_total",
    "Requests that were ended before their answer's end: `client` left or asked for it, "
    "`operator`, `deadline` (`server.request_timeout`), `shutdown`.",
    "model",
    "by",
)
REPLAYS = _counter(
    "reverie_replays_total",
    "Requests that were given what an earlier one with their Idempotency-Key had generated: "
    "`stored`, or `joined` while it ran.",
    "model",
    "kind",
)
FAILOVERS = _counter(
    "reverie_failovers_total",
    "Answers that a backend broke off: `continued` on another (or on the same, once it was "
    "back), or `impossible` to continue.",
    "model",
    "outcome",
)
RETRIES = _counter(
    "reverie_retries_total",
    "Failures of backends before an answer's first token, after which the request was tried again.",
    "model",
)

_sections.append("Latency")
DURATION = _histogram(
    "reverie_request_duration_seconds",
    "From a request's arrival to its end.",
    "model",
    buckets=_WHOLE,
)
TTFT = _histogram(
    "reverie_time_to_first_token_seconds",
    "From a request's arrival to its first token.",
    "model",
    buckets=_FIRST,
)
INTER_TOKEN = _histogram(
    "reverie_inter_token_seconds",
    "From one token to the next, as they pass through to the client; pauses for another "
    "backend are in it. Each token counts once.",
    "model",
    buckets=_GAPS,
)
QUEUE_WAIT = _histogram(
    "reverie_queue_wait_seconds",
    "How long requests waited for a slot, those included that gave up.",
    "model",
    buckets=_FIRST,
)

_OPERATION = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")

_sections.append("OpenTelemetry's names")
GEN_AI_DURATION = _histogram(
    "gen_ai_server_request_duration_seconds",
    "`gen_ai.server.request.duration`. `error_type` is the error's code; empty: none.",
    *_OPERATION,
    "error_type",
    buckets=(
        0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
    ),
)  # fmt: skip
GEN_AI_TTFT = _histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "`gen_ai.server.time_to_first_token`, of complete answers.",
    *_OPERATION,
    buckets=(
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
    ),
)  # fmt: skip
GEN_AI_PER_TOKEN = _histogram(
    "gen_ai_server_time_per_output_token_seconds",
    "`gen_ai.server.time_per_output_token`, of complete answers: one mean for each.",
    *_OPERATION,
    buckets=(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5),
)

_sections.append("Tokens and money")
TOKENS = _counter(
    "reverie_tokens_total",
    "Tokens, `prompt` and `completion`, as the engines counted them; of answers that broke "
    "off, those that were delivered.",
    "model",
    "direction",
)
CACHED_TOKENS = _counter(
    "reverie_cached_tokens_total",
    "Tokens of prompts that an engine had in its cache. They are among the prompts' tokens.",
    "model",
)
COST = _counter(
    "reverie_cost_total",
    "What requests cost, in units of their currency, as it went to the ledger.",
    "model",
    "currency",
)

_sections.append("Queue and backends")
QUEUE_LENGTH = _gauge("reverie_queue_length", "Requests that wait for a slot.", "model")
QUEUE_LIMIT = _gauge(
    "reverie_queue_limit", "Requests that may wait at once (`server.queue_size`).", "model"
)
BACKENDS_UP = _gauge(
    "reverie_model_backends_up",
    "Backends that are ready and whose latest probe didn't fail. 0: the model is down, or "
    "isn't loaded.",
    "model",
    merge="min",
)
MODEL_STATE = _gauge(
    "reverie_model_state",
    "1 for the state of a model, as `/health` has it: `ready`, `loading`, `cold`, `down` or "
    "`failed`.",
    "model",
    "state",
    merge="max",
)
IN_FLIGHT = _gauge("reverie_in_flight", "Requests on a backend.", "model", "backend")
SLOTS = _gauge(
    "reverie_slots", "Requests that a backend runs at once.", "model", "backend", merge="max"
)
READY = _gauge(
    "reverie_backend_ready",
    "1 if a backend takes requests: 0 while it drains.",
    "model",
    "backend",
    merge="min",
)
STATE = _gauge(
    "reverie_backend_state",
    "1 for the state of a backend's circuit breaker: `closed`, `open` or `half_open`.",
    "model",
    "backend",
    "state",
    merge="max",
)
STATE_REASON = _gauge(
    "reverie_backend_state_reason",
    "1 for the reason of that state; absent where nothing has happened yet.",
    "model",
    "backend",
    "reason",
    merge="max",
)
FAILURES = _gauge(
    "reverie_backend_consecutive_failures",
    "Failures since the last whole answer.",
    "model",
    "backend",
    merge="max",
)
PROBE_OK = _gauge(
    "reverie_backend_probe_ok",
    "1 if the latest probe was answered.",
    "model",
    "backend",
    merge="min",
)
BACKEND_TTFT = _gauge(
    "reverie_backend_time_to_first_token_seconds",
    "From a slot's grant to the first token, as a moving average.",
    "model",
    "backend",
    merge="mean",
)
BACKEND_PER_TOKEN = _gauge(
    "reverie_backend_seconds_per_token",
    "From one token to the next, as a moving average.",
    "model",
    "backend",
    merge="mean",
)

_sections.append("Ledger and store")
STORE_UP = _gauge(
    "reverie_store_up",
    "1 if the store of accounts took what it was last given.",
    merge="min",
)
LEDGER_LAG = _gauge(
    "reverie_ledger_lag_seconds",
    "How long the oldest settlement has waited for the store; 0: none waits.",
    merge="max",
)
JOURNAL = _gauge(
    "reverie_journal_entries", "Settlements that are kept beside the store until it is back."
)
OPEN_ROWS = _gauge(
    "reverie_ledger_open_rows",
    "Requests of this gateway that are reserved and not settled.",
)
COMMITS = _histogram(
    "reverie_store_commit_seconds",
    "How long the store took for a transaction that was committed.",
    buckets=_COMMITS,
)
STORE_SIZE = _gauge(
    "reverie_store_size_bytes",
    "The files of a SQLite store. Absent with PostgreSQL, whose own exporter tells.",
    merge="max",
)
DISK_FREE = _gauge(
    "reverie_disk_free_bytes",
    "What this user may still write on the disk of a folder: `state` (journal, logs), `store` "
    "(SQLite's file), `models`.",
    "folder",
    merge="min",
)
DISK_SIZE = _gauge("reverie_disk_size_bytes", "The size of that disk.", "folder", merge="max")

_sections.append("The process")
BUILD = _gauge(
    "reverie_build_info",
    "1. The version is Reverie's, `python` that of Python.",
    "version",
    "python",
    merge="max",
)
BACKGROUND = _counter(
    "reverie_background_failures_total",
    "Failures of work that no request waits for (`ledger beat`, `ledger journal`, `health "
    "probes`, `key watcher`, `engine supervisor`, `store writer`, `retention`, …). Each is one "
    "line of the log, and is tried again.",
    "task",
)
# As prometheus_client describes them.
_counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
_gauge("process_resident_memory_bytes", "Resident memory size in bytes.")
_gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.")
_gauge(
    "process_start_time_seconds",
    "Start time of the process since unix epoch in seconds.",
    merge="min",
)
# Of the worker that is nearest to its limit.
_gauge("process_open_fds", "Number of open file descriptors.", merge="max")
_gauge("process_max_fds", "Maximum number of open file descriptors.", merge="min")

_sections.append("Traces")
SPANS_EXPORTED = _counter(
    "reverie_trace_spans_exported_total",
    "Spans that the collector took. This and the next are absent where no collector is configured.",
)
SPANS_DROPPED = _counter(
    "reverie_trace_spans_dropped_total",
    "Spans that were lost: `queue_full`, `refused`, `unreachable` or `unencodable`. A request "
    "that was lost before its spans were made counts as one.",
    "reason",
)

_sections.append("Cluster")
CLUSTER_CONNECTED = _gauge(
    "reverie_cluster_connected",
    "1 while the cluster's manager answers; while 0, the others are what was known last. All "
    "are absent where no cluster is configured.",
    merge="min",
)
CLUSTER_GATEWAYS = _gauge(
    "reverie_cluster_gateways", "Gateways that share the engines.", merge="max"
)
CLUSTER_MACHINES = _gauge(
    "reverie_cluster_machines",
    "Machines: `up`, `draining` or `lost`. Every gateway tells the same of the cluster, so "
    "don't sum these over gateways.",
    "state",
    merge="max",
)
CLUSTER_ENGINES = _gauge(
    "reverie_cluster_engines",
    "Engines: `fetching`, `loading`, `ready`, `restarting`, `failed` or `leaving`.",
    "model",
    "state",
    merge="max",
)
CLUSTER_WANTED = _gauge(
    "reverie_cluster_engines_wanted",
    "Engines that a model's requests need, within its bounds.",
    "model",
    merge="max",
)
CLUSTER_SHORT = _gauge(
    "reverie_cluster_short",
    "1 while a model has fewer engines than are wanted, and more than time is missing; "
    "`/admin/v1/cluster` says what.",
    "model",
    merge="max",
)
