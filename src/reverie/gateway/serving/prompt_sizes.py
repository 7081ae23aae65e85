"""What a prompt comes to: counted by an engine where that matters, else bounded from above.

Rule: no size is a guess. What isn't counted is the prompt's ``prompt_bound``, less what is known of
the conversation's earlier turns, which an engine has counted.

An engine counts a prompt in one to fifty milliseconds. It isn't asked where the bound will do: for
a caller without limits whose request fits an engine's memory beside as many others.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from hashlib import blake2b

import msgspec
from msgspec.structs import replace

from reverie.errors import ContextLengthExceeded
from reverie.events import Usage
from reverie.gateway.scheduling.pool import Pool
from reverie.prompt_bounds import bound_of, images_in
from reverie.request import GenerateRequest

_MAX_KNOWN = 4096
"""The number of prompts whose sizes are remembered."""
_SMALL = 64
_SMALL_SHARE = 8
"""What is new in a turn isn't counted if it has at most ``_SMALL`` bytes, or an eighth of the
tokens before it."""
_MAX_EXCESS = 4096
_MAX_IMAGE_EXCESS = 60 * 1024
_LARGE = 512 * 1024
"""Bytes of a prompt that takes long enough to hash to hold up other clients' tokens."""


class PromptSizes:
    """The sizes of one model's prompts."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: OrderedDict[bytes, int] = OrderedDict()
        self._excess = 0  # the most by which a count was above a bound: a template's own words
        self._image_excess = 0  # likewise, for one image

    async def measure(
        self, request: GenerateRequest, *, limited: bool, exactly: bool = False
    ) -> GenerateRequest:
        """The request with its prompt's size.

        Args:
            limited: its caller or model has limits, so that the size matters.
            exactly: have an engine count it unless none can.

        Raises:
            ContextLengthExceeded: its prompt fits no backend's context.
        """
        request = self._with_excess(request)
        if not (limited or exactly or self._is_large(request)):
            return request
        if request.prompt is not None:
            return await self._measure_prompt(request)
        if request.images and _shows_addresses(request):
            return request  # what is there may be another image tomorrow
        large = request.prompt_size > _LARGE or request.images > 0
        keys = await asyncio.to_thread(_keys, request) if large else _keys(request)
        request = replace(request, prompt_key=keys[-1])
        known, turns = self._longest_known(keys)
        if turns == len(request.messages):
            return self._counted(request, known)
        new = bound_of(request.messages[turns:])
        if turns:
            request = replace(request, prompt_size=min(request.prompt_size, known + new))
        if request.images:
            return request  # those routes of engines count an image as a word, or not at all
        if exactly or not turns or new > max(_SMALL, known // _SMALL_SHARE):
            count = await self._ask(request)
            if count is not None:
                self._remember(request.prompt_key, count)
                return self._counted(request, count)
        return request

    async def _measure_prompt(self, request: GenerateRequest) -> GenerateRequest:
        """As ``measure``, of a prompt that is taken as it is."""
        key = blake2b(_encode(request.prompt), digest_size=16).digest()
        count = self._known.get(key)
        if count is None and (count := await self._ask(request)) is None:
            return request
        self._remember(key, count)
        return self._counted(request, count)

    def learn(self, request: GenerateRequest, usage: Usage) -> None:
        """Note an engine's count of a request's prompt."""
        if usage.estimated or usage.prompt_tokens <= 0:
            return
        if request.prompt_key:
            self._remember(request.prompt_key, usage.prompt_tokens)
        above = usage.prompt_tokens - request.prompt_bound
        if request.images:
            above = min(math.ceil(above / request.images), _MAX_IMAGE_EXCESS)
            self._image_excess = max(self._image_excess, above)
        else:
            self._excess = max(self._excess, min(above, _MAX_EXCESS))

    @property
    def countable(self) -> bool:
        """True if an engine can count, once it is ready."""
        return any(backend.can_count for backend in self._pool.examples)

    def _with_excess(self, request: GenerateRequest) -> GenerateRequest:
        excess = self._excess + request.images * self._image_excess
        if not excess or request.prompt_counted:
            return request
        return replace(request, prompt_size=request.prompt_bound + excess)

    def _is_large(self, request: GenerateRequest) -> bool:
        """True if as many requests of this size as an engine has slots don't fit its memory."""
        for backend in self._pool.backends:
            if backend.capacity is not None:
                size = min(request.size, backend.context or request.size)
                if size * backend.slots > backend.capacity:
                    return True
        return False

    def _longest_known(self, keys: list[bytes]) -> tuple[int, int]:
        """The tokens of the longest known beginning of the prompt, and how many messages it has."""
        for turns in range(len(keys), 0, -1):
            tokens = self._known.get(keys[turns - 1])
            if tokens is not None:
                self._known.move_to_end(keys[turns - 1])
                return tokens, turns
        return 0, 0

    async def _ask(self, request: GenerateRequest) -> int | None:
        for backend in (state.backend for state in self._pool.in_service):
            if backend.can_count and backend.ready:
                count = await backend.count_prompt(request)
                if count is not None:
                    return count
        return None

    def _counted(self, request: GenerateRequest, count: int) -> GenerateRequest:
        contexts = [backend.context for backend in self._pool.backends]
        if contexts and all(context is not None and count >= context for context in contexts):
            param = "messages" if request.prompt is None else "prompt"
            most = max(context or 0 for context in contexts)
            raise ContextLengthExceeded(count, most, param=param)
        return replace(request, prompt_size=count, prompt_counted=True)

    def _remember(self, key: bytes, tokens: int) -> None:
        self._known[key] = tokens
        self._known.move_to_end(key)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)


def _shows_addresses(request: GenerateRequest) -> bool:
    """True if an image is known by its address alone."""
    urls = (url for message in request.messages for url in images_in(message))
    return not all(url.startswith("data:") for url in urls)


def _keys(request: GenerateRequest) -> list[bytes]:
    """A hash for each message: of it, of those before it, and of all else that is rendered."""
    beside = (
        request.tools,
        request.tool_choice,
        request.response_format,
        request.chat_template_kwargs,
        request.reasoning_effort,
    )
    digest = blake2b(_encode(beside), digest_size=16)
    keys = []
    for message in request.messages:
        digest.update(_encode(message))
        keys.append(digest.digest())
    return keys


_encode = msgspec.json.Encoder(order="sorted").encode
