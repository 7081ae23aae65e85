"""Renders the bytes of an answer from a script and a request. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from reverie.testing.script import Script, Token

ID = "chatcmpl-scripted"
CREATED = 1_700_000_000
"""Ids and times are constant, so that the bytes of an answer can be cached and compared."""

PING = b": ping\n\n"
_DONE = b"data: [DONE]\n\n"
_PAGE = b"<!DOCTYPE html>\n<html><body><h1>A page, not an answer</h1></body></html>\n"


class Refusal(Exception):
    """The request is one that an engine refuses (400)."""


class AnswerOptions(Struct, frozen=True):
    """The parts of a request that determine its answer."""

    model: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    logprobs: bool
    top_logprobs: int
    prefix: str
    """The text to continue; empty: none."""
    of_prompt: bool = False
    """A prompt is gone on with, rather than a conversation answered."""


class RenderedAnswer(Struct, frozen=True):
    """An answer, ready to be written: ``opening``, then ``tokens``, then ``closing``.

    An answer in one JSON body is all ``closing``. Its tokens are empty bytes, which only take
    their time.
    """

    status: int
    content_type: str
    streamed: bool
    tokens: tuple[bytes, ...]
    closing: bytes
    opening: bytes = b""

    @property
    def whole(self) -> bytes:
        return self.opening + b"".join(self.tokens) + self.closing


class _Piece(Struct):
    """One token: its delta, and its text if it has one."""

    delta: dict[str, Any]
    token: Token | None = None


def read_options(body: object, script: Script, model: str) -> AnswerOptions:
    """Validate a request as an engine does.

    Raises:
        Refusal: it lacks messages, or a field has a wrong type.
    """
    if not isinstance(body, dict):
        raise Refusal("The body must be a JSON object.")
    of_prompt = "prompt" in body
    messages = body.get("messages")
    if of_prompt and not (body["prompt"] and isinstance(body["prompt"], str | list)):
        raise Refusal("prompt must be a text or a list that is not empty.")
    if not of_prompt and not (
        isinstance(messages, list) and messages and isinstance(messages[-1], dict)
    ):
        raise Refusal("messages must be a list that is not empty.")
    limit = body.get("max_completion_tokens")
    if limit is None:
        limit = body.get("max_tokens")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise Refusal("max_tokens must be an integer of at least 1.")
    stream_options = body.get("stream_options")
    return AnswerOptions(
        model=str(body.get("model") or model),
        stream=body.get("stream") is True and not script.force_json,
        include_usage=isinstance(stream_options, dict)
        and stream_options.get("include_usage") is True,
        max_tokens=limit,
        logprobs=script.logprobs
        and (body.get("logprobs") is not None if of_prompt else body.get("logprobs") is True),
        top_logprobs=int((body.get("logprobs") if of_prompt else body.get("top_logprobs")) or 0),
        prefix=_prefix(body, script) if script.continues else "",
        of_prompt=of_prompt,
    )


def render(script: Script, options: AnswerOptions, body: dict[str, Any]) -> RenderedAnswer:
    """The whole answer.

    Raises:
        Refusal: the answer of the script doesn't begin with the text to continue.
    """
    content_type = "text/event-stream" if options.stream else "application/json"
    if (other := instead(script, content_type, streamed=options.stream)) is not None:
        return other
    tokens = script.tokens(body) if callable(script.tokens) else script.tokens
    rest, skipped = _after(tokens, options.prefix)
    pieces = list(_pieces(script, options, rest))
    reason = script.finish_reason or ("tool_calls" if script.tool_calls else "stop")
    if options.max_tokens is not None and len(pieces) > options.max_tokens:
        pieces, reason = pieces[: options.max_tokens], "length"
    usage = _usage(script, skipped, len(pieces))
    if not options.stream:
        whole = _dumps(_whole(script, options, pieces, reason, usage))
        return RenderedAnswer(200, content_type, False, (b"",) * len(pieces), whole)
    return RenderedAnswer(
        200,
        "text/event-stream; charset=utf-8",
        True,
        tuple(_event(script, options, piece) for piece in pieces),
        _closing(script, options, reason, usage),
        _opening(script, options),
    )


def instead(script: Script, content_type: str, *, streamed: bool) -> RenderedAnswer | None:
    """What the script sends instead of an answer; None if it answers."""
    if script.html:
        return RenderedAnswer(script.status, "text/html; charset=utf-8", False, (), _PAGE)
    if script.body is not None:
        return RenderedAnswer(script.status, content_type, streamed, (), script.body)
    if script.status != 200 or script.error is not None:
        failure = _dumps(_error_object(script.error, script.status))
        return RenderedAnswer(script.status, "application/json", False, (), failure)
    return None


def error_event(script: Script) -> bytes:
    """The error event in mid-stream, and what follows it."""
    event = _data(_dumps(_error_object(script.error_in_stream, 500)))
    return _shape(script, event if script.no_done else event + _DONE)


def error_body(status: int, message: str) -> bytes:
    """An error of the engine itself."""
    return _dumps(_error_object({"message": message}, status))


# The text and its continuation --------------------------------------------------------------


def _prefix(body: dict[str, Any], script: Script) -> str:
    if "prompt" in body:
        tokens = script.tokens(body) if callable(script.tokens) else script.tokens
        return _begun(tokens, body["prompt"])
    last = body["messages"][-1]
    if body.get("continue_final_message") is not True:
        return ""
    if body.get("add_generation_prompt") is True:
        raise Refusal("continue_final_message and add_generation_prompt exclude each other.")
    if last.get("role") != "assistant":
        raise Refusal("continue_final_message needs an assistant's message at the end.")
    content = last.get("content") or ""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return str(content)


def _begun(tokens: Sequence[Token], prompt: Any) -> str:
    """The longest beginning of the answer that the prompt ends with."""
    whole = _text(list(tokens))
    ends = (whole[:length] for length in range(len(whole), 0, -1))
    return next((end for end in ends if str(prompt).endswith(end)), "")


def _after(tokens: Sequence[Token], prefix: str) -> tuple[list[Token], int]:
    """The tokens after ``prefix``, and how many tokens the prefix has.

    A prefix that ends inside a token splits it in two: the beginning counts as one token, and the
    rest as another.
    """
    left = _bytes(prefix)
    for skipped, token in enumerate(tokens):
        if not left:
            return list(tokens[skipped:]), skipped
        written = _bytes(token)
        if len(left) < len(written) and written.startswith(left):
            rest: Token = written[len(left) :]
            if isinstance(token, str):
                rest = token[len(left.decode("utf-8", "surrogatepass")) :]
            return [rest, *tokens[skipped + 1 :]], skipped + 1
        if not left.startswith(written):
            break
        left = left[len(written) :]
    if left:
        raise Refusal("The text to be continued is not what this engine would have said.")
    return [], len(tokens)


def _bytes(token: Token) -> bytes:
    return token if isinstance(token, bytes) else token.encode("utf-8", "surrogatepass")


def _pieces(script: Script, options: AnswerOptions, tokens: Sequence[Token]) -> Iterator[_Piece]:
    if not (options.prefix or options.of_prompt):
        for reasoning in script.reasoning:
            yield _Piece({"reasoning_content": reasoning})
    for token in tokens:
        if isinstance(token, bytes):
            yield _Piece({"content": token.decode("utf-8", "surrogateescape")}, token)
        else:
            yield _Piece({"content": token}, token)
    for index, call in enumerate(() if options.of_prompt else script.tool_calls):
        begun = {"index": index, "id": call.id, "type": "function"}
        yield _Piece({"tool_calls": [{**begun, "function": {"name": call.name, "arguments": ""}}]})
        for part in call.arguments:
            yield _Piece({"tool_calls": [{"index": index, "function": {"arguments": part}}]})


# Streams ------------------------------------------------------------------------------------


def _opening(script: Script, options: AnswerOptions) -> bytes:
    if not script.role_chunk or options.of_prompt:
        return b""
    role = {"role": "assistant", "content": None}
    return _shape(script, _data(_dumps(_chunk(options, [_choice(options, role)]))))


def _event(script: Script, options: AnswerOptions, piece: _Piece) -> bytes:
    choice = _choice(options, piece.delta)
    if options.logprobs and piece.token is not None:
        choice["logprobs"] = _logprobs(options, [piece.token])
    raw = isinstance(piece.token, bytes)
    return _shape(script, _data(_dumps(_chunk(options, [choice]), raw=raw)))


def _closing(
    script: Script, options: AnswerOptions, reason: str, usage: dict[str, Any] | None
) -> bytes:
    events = b""
    if not script.no_finish:
        events += _data(_dumps(_chunk(options, [_choice(options, {}, reason)])))
    if usage is not None and options.include_usage:
        events += _data(_dumps({**_chunk(options, []), "usage": usage}))
    if not script.no_done:
        events += _DONE
    return _shape(script, events)


def _chunk(options: AnswerOptions, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": ID,
        "object": "text_completion" if options.of_prompt else "chat.completion.chunk",
        "created": CREATED,
        "model": options.model,
        "choices": choices,
    }


def _choice(
    options: AnswerOptions, delta: dict[str, Any], reason: str | None = None
) -> dict[str, Any]:
    if options.of_prompt:
        return {"index": 0, "text": delta.get("content", ""), "finish_reason": reason}
    return {"index": 0, "delta": delta, "finish_reason": reason}


def _data(payload: bytes) -> bytes:
    return b"data: %b\n\n" % payload


def _shape(script: Script, events: bytes) -> bytes:
    """Add the comments and line ends that the script wants."""
    if script.comments:
        events = b"".join(PING + event + b"\n\n" for event in events.split(b"\n\n")[:-1])
    return events.replace(b"\n", b"\r\n") if script.crlf else events


# One JSON body ------------------------------------------------------------------------------


def _whole(
    script: Script,
    options: AnswerOptions,
    pieces: list[_Piece],
    reason: str,
    usage: dict[str, Any] | None,
) -> dict[str, Any]:
    tokens = [piece.token for piece in pieces if piece.token is not None]
    message: dict[str, Any] = {"role": "assistant", "content": _text(tokens)}
    if reasoning := "".join(piece.delta.get("reasoning_content", "") for piece in pieces):
        message["reasoning_content"] = reasoning
    if calls := _whole_calls(script, pieces):
        message["tool_calls"] = calls
        message["content"] = message["content"] or None
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": reason}
    if options.of_prompt:
        choice = _choice(options, message, reason)
    if options.logprobs:
        choice["logprobs"] = _logprobs(options, tokens)
    whole = _chunk(options, [choice])
    if not options.of_prompt:
        whole["object"] = "chat.completion"
    return whole if usage is None else {**whole, "usage": usage}


def _text(tokens: list[Token]) -> str:
    """The tokens joined. Parts of characters are joined as bytes, before they are decoded."""
    if any(isinstance(token, bytes) for token in tokens):
        return b"".join(map(_bytes, tokens)).decode("utf-8", "replace")
    return "".join(token for token in tokens if isinstance(token, str))


def _whole_calls(script: Script, pieces: list[_Piece]) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    for piece in pieces:
        for part in piece.delta.get("tool_calls", ()):
            if "id" in part:
                function = {**part["function"]}
                calls.append({"id": part["id"], "type": "function", "function": function})
            else:
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    return calls


# Parts of both ------------------------------------------------------------------------------


def _usage(script: Script, continued: int, completion: int) -> dict[str, Any] | None:
    """As engines count: the tokens of a continued text belong to the prompt."""
    if not script.usage:
        return None
    prompt = script.prompt_tokens + continued
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": script.cached_tokens},
    }


def _logprobs(options: AnswerOptions, tokens: Sequence[Token]) -> dict[str, Any]:
    """Those of a choice: of a conversation an entry each, of a prompt lists of each fact."""
    entries = [_logprob(token, options.top_logprobs) for token in tokens]
    if not options.of_prompt:
        return {"content": entries}
    tops = [{top["token"]: top["logprob"] for top in one["top_logprobs"]} for one in entries]
    return {
        "tokens": [one["token"] for one in entries],
        "token_logprobs": [one["logprob"] for one in entries],
        "top_logprobs": tops,
    }


def _logprob(token: Token, top: int) -> dict[str, Any]:
    """Made-up probabilities in the right shape."""

    def entry(token: Token, rank: int) -> dict[str, Any]:
        shown = token if isinstance(token, str) else token.decode("utf-8", "surrogateescape")
        return {"token": shown, "logprob": -0.25 - rank, "bytes": list(_bytes(token))}

    others = [token, *(f"other {rank}" for rank in range(1, top))][:top]
    ranked = [entry(other, rank) for rank, other in enumerate(others)]
    return {**entry(token, 0), "top_logprobs": ranked}


def _error_object(given: Any, status: int) -> dict[str, Any]:
    if given is not None and "error" in given:
        return dict(given)
    kind = "invalid_request_error" if 400 <= status < 500 else "server_error"
    default = {"message": "A scripted error.", "type": kind, "param": None, "code": None}
    return {"error": default if given is None else {**default, **given}}


def _dumps(value: Any, *, raw: bool = False) -> bytes:
    """Compact JSON. Half a surrogate pair is written as an escape, the only way there is."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode("utf-8", "surrogateescape" if raw else "strict")
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()
