"""What answers and errors are on the wire, as types; the API's description is made from them.

Names that Livepeer's own description has (``LLMResponse``, ``HTTPError``, …) are kept: SDKs are
generated from them. A field that is ``NotRequired`` is absent where it isn't used, never null.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

_Count = Annotated[int, Field(ge=0)]
_documented = with_config(ConfigDict(use_attribute_docstrings=True))


@_documented
class LLMError(TypedDict):
    """The error in OpenAI's shape."""

    message: str
    type: str
    param: str | None
    """The field that is at fault, as a dotted path."""
    code: str


class APIError(TypedDict):
    """The error in Livepeer's shape."""

    msg: str


class HTTPError(TypedDict):
    """The body of every error but those with status 422."""

    detail: APIError
    error: LLMError


class ValidationError(TypedDict):
    """One mistake, and where it is."""

    loc: list[str | int]
    msg: str
    type: str


class HTTPValidationError(TypedDict):
    """All that is wrong with a request."""

    detail: list[ValidationError]
    error: LLMError


# Answers ----------------------------------------------------------------------------------


class LLMTopLogprob(TypedDict):
    """A token that might have been chosen."""

    token: str
    logprob: Annotated[float, Field(le=0)]
    bytes: NotRequired[list[Annotated[int, Field(ge=0, le=255)]]]


class LLMTokenLogprob(LLMTopLogprob):
    """The token that was chosen, and the likeliest alternatives."""

    top_logprobs: list[LLMTopLogprob]


class LLMLogprobs(TypedDict):
    """Log-probabilities, one item per token."""

    content: list[LLMTokenLogprob]


class LLMAnswerFunction(TypedDict):
    """The function and its arguments, as JSON text."""

    name: NotRequired[str]
    arguments: str


@_documented
class LLMAnswerToolCall(TypedDict):
    """A tool call, or in a chunk a piece of one: `id`, `type` and `name` come with the first."""

    index: NotRequired[_Count]
    """In chunks: the call that the piece belongs to."""
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: LLMAnswerFunction


@_documented
class LLMAnswerMessage(TypedDict):
    """What the model wrote."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str | None]
    """Null only on `/v1`, beside `tool_calls` with no text."""
    reasoning_content: NotRequired[str]
    refusal: NotRequired[str]
    """What the model said instead of an answer, where its engine tells that apart."""
    tool_calls: NotRequired[list[LLMAnswerToolCall]]


@_documented
class LLMChoice(TypedDict):
    """`message` in an answer, `delta` in a chunk."""

    index: _Count
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "error"] | None
    """Null in every chunk but the last; never null in an answer."""
    delta: NotRequired[LLMAnswerMessage]
    message: NotRequired[LLMAnswerMessage]
    logprobs: NotRequired[LLMLogprobs]


@_documented
class LLMTokenUsage(TypedDict):
    """Tokens, as the engine counted them."""

    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count
    prompt_tokens_details: NotRequired[dict[str, _Count]]
    """Parts of `prompt_tokens`: `cached_tokens`, and what else the engine tells."""
    completion_tokens_details: NotRequired[dict[str, _Count]]
    """Parts of `completion_tokens`, such as `reasoning_tokens`, where the engine tells any."""
    estimated: NotRequired[bool]
    """True where the engine counted nothing; else absent."""


@_documented
class LLMResponse(TypedDict):
    """An answer, or one chunk of a streamed one."""

    id: str
    object: Literal["chat.completion", "chat.completion.chunk"]
    created: int
    """Seconds since 1970."""
    model: str
    choices: list[LLMChoice]
    usage: LLMTokenUsage
    """In the last chunks of a stream, and in every answer."""
    error: NotRequired[LLMError]
    """In the last chunk of a stream that broke."""
