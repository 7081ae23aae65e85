"""The child's main: ``python -P -m reverie.runner.child OPTIONS``.

It becomes the engine: llama.cpp's server inside ``xllamacpp``, or a ``llama-server`` binary.
"""

from __future__ import annotations

import os
import signal
import sys

from reverie.runner.guard import die_with_parent
from reverie.runner.options import MODEL_REFUSED, NOT_EXECUTABLE, XLLAMACPP, EngineOptions

_VERBOSITY = 2
"""llama.cpp's warnings and errors. 3 adds several lines a request; more would print prompts."""


def main() -> None:
    options = EngineOptions.from_json(sys.argv[1])
    die_with_parent(options.parent)
    if options.engine == XLLAMACPP:
        _serve(options)
    else:
        _become_llama_server(options)


def _serve(options: EngineOptions) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.verbosity = _VERBOSITY
    params.hostnames = [options.socket]
    params.ui = False
    params.cors_origins = ""
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.n_parallel = options.slots
    params.kv_unified = True
    params.kv_unified_per_slot = options.context
    params.n_ctx = options.kv_tokens
    params.n_batch = params.n_ubatch = options.batch
    params.n_gpu_layers = options.gpu_layers
    params.cache_ram_mib = options.cache_mib
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    if options.template is not None:
        with open(options.template, encoding="utf-8") as file:
            params.chat_template = file.read()
    try:
        # Kept in a variable: the server stops when its object goes.
        server = xllamacpp.Server(params)
    except RuntimeError:  # the reason is in the log, which the engine has written itself
        sys.exit(MODEL_REFUSED)
    while server:
        signal.pause()


def _become_llama_server(options: EngineOptions) -> None:
    try:
        os.execv(options.engine, [options.engine, *llama_server_flags(options)])
    except OSError as error:
        print(f"{options.engine}: {error.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(NOT_EXECUTABLE)


def llama_server_flags(options: EngineOptions) -> list[str]:
    """The flags of ``llama-server`` that mean what ``_serve`` sets."""
    flags = {
        "--log-verbosity": _VERBOSITY,
        "--host": options.socket,
        "--model": options.model,
        "--alias": options.alias,
        "--parallel": options.slots,
        "--ctx-size": options.kv_tokens,
        "--batch-size": options.batch,
        "--ubatch-size": options.batch,
        "--cache-ram": options.cache_mib,
        "--threads": options.threads,
        "--threads-batch": options.threads,
    }
    if options.context:  # only then, since older servers lack it
        flags["--kv-unified-per-slot"] = options.context
    if options.gpu_layers >= 0:
        flags["--n-gpu-layers"] = options.gpu_layers
    if options.template is not None:
        flags["--chat-template-file"] = options.template
    switches = ["--kv-unified", "--no-webui", "--metrics", "--slots", "--jinja"]
    return switches + [part for flag, value in flags.items() for part in (flag, str(value))]


if __name__ == "__main__":
    main()
