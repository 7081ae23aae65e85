"""What an engine is given by its model's task: its context, its memory, its batches.

An engine that doesn't generate reads each text whole, in one batch, and needs no room for an
answer. A model whose tokens all see each other keeps no cache at all.
"""

from __future__ import annotations

from typing import NamedTuple

from reverie.errors import ModelError
from reverie.models.gguf import RANK, Header
from reverie.settings import ModelSettings

DEFAULT_CONTEXT = 32768
"""The most tokens of context that an engine gets unless the settings ask for more. Memory for all
of them is taken at the start: 22 KiB a token for the smallest model, 128 KiB for one of 8 billion
parameters."""
DEFAULT_INPUT = 2048
"""The same where it doesn't generate: an engine's work on a batch takes memory, too."""


class Shape(NamedTuple):
    """All but ``slots`` in tokens, as in ``EngineOptions``."""

    context: int
    kv_tokens: int
    """0 where the model keeps no cache."""
    batch: int
    slots: int
    pooling: str


def shape_of(model: str, header: Header, settings: ModelSettings) -> Shape:
    """How the engine of a model runs.

    Raises:
        ModelError: the model, whose file is called ``model``, isn't made for the task.
    """
    task = settings.task
    if task == "generate":
        if not header.causal:
            other = "rerank" if header.pooling == RANK else "embed"
            raise ModelError(f'{model} generates no text: set task = "{other}".')
        context = settings.context or min(header.context_length, DEFAULT_CONTEXT)
        kv_tokens = settings.kv_tokens or _default_kv_tokens(context)
        return Shape(context, kv_tokens, settings.batch, settings.slots, "")
    ranks = header.pooling == RANK
    if task == "embed" and ranks:
        raise ModelError(f'{model} makes scores, not vectors: set task = "rerank".')
    if task == "rerank" and not ranks:
        raise ModelError(f"{model} isn't made to rank documents.")
    # An encoder has no position for a token beyond those that it was trained with.
    context = min(settings.context or DEFAULT_INPUT, header.context_length)
    pooling = "" if header.pooling else "mean"
    if not header.causal:
        return Shape(context, 0, context, settings.slots, pooling)
    kv_tokens = settings.kv_tokens or max(context, min(settings.slots * context, DEFAULT_CONTEXT))
    slots = max(1, min(settings.slots, kv_tokens // context))
    return Shape(context, kv_tokens, context, slots, pooling)


def _default_kv_tokens(context: int) -> int:
    """Tokens for all slots together: twice the context, up to ``DEFAULT_CONTEXT``."""
    return max(context, min(2 * context, DEFAULT_CONTEXT))
