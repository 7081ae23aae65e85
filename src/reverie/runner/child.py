"""The child's main, ``python -P -m reverie.runner.child OPTIONS``: becomes the engine.

The engine is llama.cpp's server inside ``xllamacpp``, or a ``llama-server`` binary.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from reverie.runner.endpoint import Endpoint
from reverie.runner.guard import die_with_parent
from reverie.runner.options import (
    GPU_BATCH,
    MODEL_REFUSED,
    NOT_EXECUTABLE,
    PORT_TAKEN,
    UNKNOWN_BATCH,
    XLLAMACPP,
    EngineOptions,
    cpu_batch,
)

_VERBOSITY = 2
"""Warnings and errors. 3 adds several lines a request; more would print prompts."""


def main() -> None:
    options = EngineOptions.from_json(sys.argv[1])
    die_with_parent(options.parent)
    if options.engine == XLLAMACPP:
        _serve(options)
    else:
        _become_llama_server(options)


def _serve(options: EngineOptions) -> None:
    server = _load(options)
    if server is None:
        sys.exit(MODEL_REFUSED)
    while server:  # it stops when the object is deleted
        signal.pause()


def _load(options: EngineOptions) -> Any:
    """Start the server. None: it can't load the model; its log says why."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.verbosity = _VERBOSITY
    params.hostnames = [options.endpoint.host]
    if options.endpoint.port:
        params.port = options.endpoint.port
    if options.endpoint.key_file:
        params.api_keys = [options.endpoint.key()]
    params.ui = False
    params.prefill_assistant = False  # a last assistant message is continued only where asked
    params.cors_origins = ""
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.n_parallel = options.slots
    params.kv_unified = True
    params.kv_unified_per_slot = options.context
    params.n_ctx = options.kv_tokens
    batch = options.batch or (GPU_BATCH if _on_gpu(options) else cpu_batch(options.slots))
    params.n_batch = params.n_ubatch = batch
    params.n_gpu_layers = options.gpu_layers
    params.cache_ram_mib = options.cache_mib
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    if options.template is not None:
        with open(options.template, encoding="utf-8") as file:
            params.chat_template = file.read()
    if options.task != "generate":
        _set_task(params, options)
    for cache_type in _cache_types(options):
        params.cache_type_k = cache_type
        try:
            return xllamacpp.Server(params)
        except RuntimeError:
            _make_way(options.endpoint)
    return None


def _make_way(endpoint: Endpoint) -> None:
    """Let it try again where it failed to start, unless the failure is its port's."""
    from reverie.runner.port import can_listen  # slow, and rarely needed

    if endpoint.port == 0:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(endpoint.host)
    elif not can_listen(endpoint.host, endpoint.port):
        sys.exit(PORT_TAKEN)


def _set_task(params: Any, options: EngineOptions) -> None:
    """Have it make vectors, or scores, of the texts that it is sent, and generate nothing."""
    import xllamacpp

    params.embedding = True
    pooling = "rank" if options.task == "rerank" else options.pooling
    if pooling:
        name = f"LLAMA_POOLING_TYPE_{pooling.upper()}"
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, name)


def _cache_types(options: EngineOptions) -> Sequence[Any]:
    """The types in which the KV cache may hold keys, in the order in which they are tried.

    On a CPU llama.cpp multiplies 16-bit keys in a different order for a long batch than for a
    single token, and so rounds differently. With 8-bit keys the result is the same however a prompt
    is split into batches, so a greedy answer that is continued ends as it would have. Some models
    can't have their keys in 8 bits. Where nothing is generated, nothing is continued.
    """
    import xllamacpp

    f16, q8_0 = xllamacpp.ggml_type.GGML_TYPE_F16, xllamacpp.ggml_type.GGML_TYPE_Q8_0
    if options.cache_type_k != "auto":
        return (q8_0,) if options.cache_type_k == "q8_0" else (f16,)
    if options.task != "generate":
        return (f16,)
    return (f16,) if _on_gpu(options) else (q8_0, f16)


def _on_gpu(options: EngineOptions) -> bool:
    import xllamacpp

    devices = (device["type"].name for device in xllamacpp.get_device_info())
    return options.gpu_layers != 0 and any("GPU" in device for device in devices)


def _become_llama_server(options: EngineOptions) -> None:
    try:
        os.execv(options.engine, [options.engine, *llama_server_flags(options)])
    except OSError as error:
        print(f"{options.engine}: {error.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(NOT_EXECUTABLE)


_TASK_FLAGS: dict[str, list[str]] = {
    "generate": [],
    "embed": ["--embeddings"],
    "rerank": ["--reranking"],
}


def llama_server_flags(options: EngineOptions) -> list[str]:
    """The flags of ``llama-server`` that mean what ``_load`` sets."""
    flags = {
        "--log-verbosity": _VERBOSITY,
        "--host": options.endpoint.host,
        "--model": options.model,
        "--alias": options.alias,
        "--parallel": options.slots,
        "--ctx-size": options.kv_tokens,
        "--batch-size": options.batch or UNKNOWN_BATCH,
        "--ubatch-size": options.batch or UNKNOWN_BATCH,
        "--cache-ram": options.cache_mib,
        "--threads": options.threads,
        "--threads-batch": options.threads,
    }
    if options.endpoint.port:
        flags["--port"] = options.endpoint.port
    if options.endpoint.key_file:
        flags["--api-key-file"] = options.endpoint.key_file
    if options.context:  # otherwise left out, since older servers lack it
        flags["--kv-unified-per-slot"] = options.context
    if options.cache_type_k != "auto":
        flags["--cache-type-k"] = options.cache_type_k
    if options.gpu_layers >= 0:
        flags["--n-gpu-layers"] = options.gpu_layers
    if options.template is not None:
        flags["--chat-template-file"] = options.template
    if options.task == "embed" and options.pooling:
        flags["--pooling"] = options.pooling
    switches = ["--kv-unified", "--no-webui", "--no-prefill-assistant", "--metrics", "--slots"]
    return [*_TASK_FLAGS[options.task], *switches, "--jinja"] + [
        part for flag, value in flags.items() for part in (flag, str(value))
    ]


if __name__ == "__main__":
    main()
