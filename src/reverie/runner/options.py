"""What the supervisor tells its child, as one JSON argument.

Rule: the child imports this before the engine, so this imports nothing slow.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from reverie.runner.endpoint import Endpoint

XLLAMACPP = "xllamacpp"
"""The engine that is a Python package. Any other engine is the path of a ``llama-server``."""

GPU_BATCH = 512
UNKNOWN_BATCH = 128
"""For a ``llama-server``: nobody tells what it runs on."""
_CPU_BATCH = 16

MODEL_REFUSED = 65
"""The child's exit status when the engine can't load the model (``EX_DATAERR``)."""

PORT_TAKEN = 69
"""The child's exit status when another process listens on the engine's port (``EX_UNAVAILABLE``).
"""

NOT_EXECUTABLE = 126
"""The child's exit status when the binary can't be executed (a shell's status for that)."""


def cpu_batch(slots: int) -> int:
    """Tokens that an engine on a CPU works on between two of a running answer.

    Larger batches hold streams up and are hardly faster: what a prompt takes there is arithmetic.
    A running answer in each slot leaves half of a batch to prompts.
    """
    return max(_CPU_BATCH, 2 * slots)


class EngineOptions(NamedTuple):
    """How one engine runs. ``context``, ``kv_tokens`` and ``batch`` are in tokens.

    ``context`` is what one request may use (0: what the model was trained for), ``kv_tokens`` what
    all requests may use together. ``template`` is the path of a Jinja file that replaces the
    model's chat template. ``batch`` 0: as fits what the engine runs on. ``cache_type_k`` and
    ``task`` are as in the settings. ``parent`` is the id of the process that the child must not
    outlive. ``pooling`` is how a text's vector is made of its tokens', by llama.cpp's name; empty:
    as the model says.
    """

    engine: str
    model: str
    alias: str
    endpoint: Endpoint
    template: str | None
    slots: int
    context: int
    kv_tokens: int
    batch: int
    threads: int
    gpu_layers: int
    cache_type_k: str
    cache_mib: int
    parent: int
    task: str = "generate"
    pooling: str = ""

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> EngineOptions:
        told = json.loads(text)
        return cls(**(told | {"endpoint": Endpoint(*told["endpoint"])}))
