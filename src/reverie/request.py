"""A request to generate text, validated, whichever dialect it came in."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from reverie.prompt_bounds import extent, extent_of_prompt

DEFAULT_MAX_TOKENS = 4096
"""Of an answer in a dialect whose requests may leave it out and mean no limit."""


class GenerateRequest(Struct, frozen=True, kw_only=True):
    """One generation. Every value is within the bounds of docs/protocol.md#the-request.

    ``messages`` are plain dictionaries in OpenAI's shape: ``role``, ``content`` (a string, None
    beside ``tool_calls``, or a list of parts of type ``text`` and ``image_url`` where there is an
    image), ``tool_calls``, ``reasoning_content`` or ``tool_call_id`` where the role
    has them, and ``name``. Optional fields are None (or empty) where the client didn't set them;
    ``top_k`` 0 and ``min_p`` 0.0 mean *off*. ``response_format``, ``tools`` and ``tool_choice`` are
    in OpenAI's shape.

    ``prompt`` is taken as it is, as text or tokens, without a chat template; ``messages`` are empty
    then. ``suffix`` is what comes after the answer to it.

    ``continue_final_message``: the last message is the assistant's, and the answer goes on with it.

    ``answer_so_far`` never comes from the client: it is the beginning of an answer that broke, for
    another backend to continue; empty if all that came were spaces, which are generated again.
    ``max_tokens`` then counts the tokens after it.
    """

    model: str
    messages: list[dict[str, Any]]
    prompt: str | tuple[int, ...] | None = None
    suffix: str | None = None
    temperature: float = 0.7
    max_tokens: int = 256
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    left_open: frozenset[str] = frozenset()
    """The fields that the client doesn't name, of those for which a model may have defaults."""
    stop: tuple[str, ...] = ()
    tells_stop: bool = False
    """The client has to know which of its stop strings ended the answer."""
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[str, float] | None = None
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    ignore_eos: bool = False
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool = False
    answer_so_far: str | None = None
    prompt_bound: int = -1
    """The most tokens that the prompt can have. Set when the request is made."""
    prompt_estimate: int = -1
    """The tokens that it would have as English, for a bill without a count."""
    prompt_size: int = -1
    """Tokens of the prompt, at most: its ``prompt_bound``, until more is known of it."""
    prompt_counted: bool = False
    """True if ``prompt_size`` is an engine's count."""
    images: int = 0
    """How many there are. Set when the request is made."""
    counts_prompt: bool = True
    """False for a further answer to a prompt that is counted with another one."""
    prompt_key: bytes = b""
    """A hash of all that the prompt is rendered from; empty where it wasn't needed."""

    def __post_init__(self) -> None:
        if self.prompt_bound < 0:
            if self.prompt is None:
                bound, estimate, images = extent(self.messages, self.tools)
            else:
                bound, estimate, images = extent_of_prompt(self.prompt)
            msgspec.structs.force_setattr(self, "prompt_bound", bound)
            msgspec.structs.force_setattr(self, "prompt_estimate", estimate)
            msgspec.structs.force_setattr(self, "prompt_size", bound)
            msgspec.structs.force_setattr(self, "images", images)

    @property
    def likely_prompt(self) -> int:
        """Tokens of the prompt, for a bill that no engine made."""
        known = self.prompt_size
        return known if self.prompt_counted else min(self.prompt_estimate, known)

    @property
    def size(self) -> int:
        """Tokens of prompt and answer together, at most."""
        return self.prompt_size + self.max_tokens
