"""Models on the hub that are worth a try, and what they need of a machine.

Rule: no figure is copied from anywhere that can't be checked. A size is parameters × bits, the
memory is that and the KV cache, whose size follows from the model's layers. Both are estimates.

None of these is pinned: what a reference leads to is its owner's to change. Only the catalogue's
model is fetched by its SHA-256.
"""

from __future__ import annotations

from typing import NamedTuple

from reverie.tasks import Task

_BITS = {"Q8_0": 8.5, "Q4_K_M": 5.0, "MXFP4": 4.75}
"""Bits a parameter. Q8_0 is 34 bytes for 32 numbers. The others mix kinds of blocks: Q4_K_M has
blocks of 4.5 and of 6.56 bits, MXFP4 of 4.25 and of 16; taken is a round number in between."""
_TOKENS = {"generate": 32768, "embed": 16384, "rerank": 0}
"""Tokens of KV cache that an engine takes by default, where the model keeps a cache."""
_CACHE = 256 * 1024 * 1024
"""Bytes of ``cache_mib``, by default."""
_OWN = 100 * 1024 * 1024
"""Bytes that the engine itself takes, about."""


class Suggestion(NamedTuple):
    """A model, by its reference."""

    ref: str
    good_for: str
    parameters: float
    """In billions, as its authors say."""
    quantization: str
    licence: str
    layers: int
    """Layers, KV heads and the length of a head's key: what a token in the KV cache takes."""
    kv_heads: int
    head: int
    task: Task = "generate"
    causal: bool = True
    """False: it keeps no KV cache."""

    @property
    def size(self) -> int:
        """Bytes of its file, about."""
        return int(self.parameters * 1e9 * _BITS[self.quantization] / 8)

    @property
    def memory(self) -> int:
        """Bytes that an engine of it takes with the defaults, about; an upper bound where it
        attends to a sliding window."""
        tokens = _TOKENS[self.task] if self.causal else 0
        kept = tokens * 2 * 2 * self.layers * self.kv_heads * self.head  # keys, values; 16 bits
        cache = _CACHE if self.task == "generate" else 0
        return self.size + kept + cache + _OWN


_APACHE = "Apache-2.0"

SUGGESTIONS: tuple[Suggestion, ...] = (
    Suggestion(
        "hf:Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf",
        "chat and tools on the smallest machine; thinks", 0.6, "Q8_0", _APACHE, 28, 8, 128,
    ),
    Suggestion(
        "hf:Qwen/Qwen3-1.7B-GGUF/Qwen3-1.7B-Q8_0.gguf",
        "chat and tools on a laptop; thinks", 1.7, "Q8_0", _APACHE, 28, 8, 128,
    ),
    Suggestion(
        "hf:bartowski/Llama-3.2-3B-Instruct-GGUF/Llama-3.2-3B-Instruct-Q4_K_M.gguf",
        "chat, summaries", 3.2, "Q4_K_M", "Llama 3.2", 28, 8, 128,
    ),
    Suggestion(
        "hf:Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf",
        "chat, tools, code; thinks", 4.0, "Q4_K_M", _APACHE, 36, 8, 128,
    ),
    Suggestion(
        "hf:ggml-org/gemma-3-4b-it-GGUF/gemma-3-4b-it-Q4_K_M.gguf",
        "chat in many languages", 3.9, "Q4_K_M", "Gemma", 34, 4, 256,
    ),
    Suggestion(
        "hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
        "chat, tools", 8.0, "Q4_K_M", "Llama 3.1", 32, 8, 128,
    ),
    Suggestion(
        "hf:Qwen/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf",
        "chat, tools, code; thinks", 8.2, "Q4_K_M", _APACHE, 36, 8, 128,
    ),
    Suggestion(
        "hf:ggml-org/gemma-3-12b-it-GGUF/gemma-3-12b-it-Q4_K_M.gguf",
        "chat in many languages", 11.8, "Q4_K_M", "Gemma", 48, 8, 256,
    ),
    Suggestion(
        "hf:ggml-org/gpt-oss-20b-GGUF/gpt-oss-20b-mxfp4.gguf",
        "reasoning, tools; quick for its size (3.6 billion work at once)",
        20.9, "MXFP4", _APACHE, 24, 8, 64,
    ),
    Suggestion(
        "hf:Qwen/Qwen3-30B-A3B-GGUF/Qwen3-30B-A3B-Q4_K_M.gguf",
        "reasoning, code; quick for its size (3.3 billion work at once)",
        30.5, "Q4_K_M", _APACHE, 48, 4, 128,
    ),
    Suggestion(
        "hf:ggml-org/gpt-oss-120b-GGUF/gpt-oss-120b-mxfp4-00001-of-00003.gguf",
        "reasoning, tools; for large GPUs", 116.8, "MXFP4", _APACHE, 36, 8, 64,
    ),
    Suggestion(
        "hf:nomic-ai/nomic-embed-text-v1.5-GGUF/nomic-embed-text-v1.5.Q8_0.gguf",
        "vectors of English text", 0.137, "Q8_0", _APACHE, 12, 12, 64, "embed", causal=False,
    ),
    Suggestion(
        "hf:Qwen/Qwen3-Embedding-0.6B-GGUF/Qwen3-Embedding-0.6B-Q8_0.gguf",
        "vectors of text in many languages", 0.6, "Q8_0", _APACHE, 28, 8, 128, "embed",
    ),
    Suggestion(
        "hf:gpustack/bge-reranker-v2-m3-GGUF/bge-reranker-v2-m3-Q8_0.gguf",
        "documents ranked, in many languages",
        0.568, "Q8_0", _APACHE, 24, 16, 64, "rerank", causal=False,
    ),
)  # fmt: skip
"""The smaller before the larger, for each task."""


def fits(need: int, memory: int) -> bool:
    """True if a model that needs so many bytes fits into so many: an eighth is left to others."""
    return need <= memory - memory // 8


def fitting(memory: int) -> list[Suggestion]:
    """The models that fit into so many bytes, the largest first; those that generate before others.

    As ``fits`` has it.
    """
    found = [one for one in SUGGESTIONS if fits(one.memory, memory)]
    return sorted(found, key=lambda one: (one.task != "generate", -one.parameters))
