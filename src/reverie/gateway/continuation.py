"""One answer, over as many calls of backends as it takes. Sans-IO.

Rule 1: an answer is continued from text that the client has, at the end of a piece. Inside a token
an engine would take another turn.

Rule 2: the parts add up as if one backend had given the whole answer: one role, one usage,
``max_tokens`` and stop strings across every seam.

Rule 3: an answer that an engine can't be asked to continue isn't continued; ``why_not_resumable``
alone decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from reverie.backends.encoding import forced_tools
from reverie.events import Delta, Event, Finish, Prompt, Usage
from reverie.request import GenerateRequest


class Continuation:
    """What the client has of one answer, and what is still to be asked for.

    ``request`` is what to ask a backend now. ``tokens`` counts those that were sent to the client.
    ``begun``: something was sent; ``progressed``: since the last ``resume``, too. ``resumed``: a
    backend has been asked to continue. ``prompt``: the size of the client's own prompt, once a
    backend has told it.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request
        self.tokens = 0
        self.begun = False
        self.progressed = False
        self._asked = request
        self._greedy = request.temperature == 0
        self._text: list[str] = []
        # If it is greedy: pieces and tokens up to the last piece that doesn't end in a space.
        self._solid = (0, 0)
        self.prompt: Prompt | None = None
        self._seam: _Seam | None = None
        self._not_text: str | None = None

    @property
    def resumed(self) -> bool:
        return self._seam is not None

    def accept(self, batch: list[Event]) -> list[Event]:
        """What to send on of a backend's batch: all of it, before the first seam.

        The answer is complete if this ends with ``Usage``, whatever the backend still sends.
        """
        if self._seam is not None:
            batch = self._seam.join(batch)
        for event in batch:
            if isinstance(event, Delta):
                self.tokens += event.tokens
                if event.pieces and self._greedy:
                    self._add_pieces(event.pieces)
                elif text := event.text:
                    self._text.append(text)
                    if self._greedy and not text[-1].isspace():
                        self._solid = (len(self._text), self.tokens)
                if event.tool_calls or event.reasoning or event.refusal:
                    self._not_text = _what_it_is(event)
            elif isinstance(event, Prompt):
                self.prompt = event
                continue
            self.begun = self.progressed = True
        if batch and isinstance(last := batch[-1], Usage) and last.estimated:
            batch[-1] = self._with_prompt(last)
        return batch

    def _add_pieces(self, pieces: Sequence[str]) -> None:
        """Add the texts of a delta whose tokens are counted already."""
        for left, piece in enumerate(reversed(pieces)):
            if not piece[-1].isspace():
                self._solid = (len(self._text) + len(pieces) - left, self.tokens - left)
                break
        self._text += pieces

    def _with_prompt(self, usage: Usage) -> Usage:
        """The usage, with an estimate of the prompt if no engine reported its size."""
        if usage.prompt_tokens:
            return usage
        return msgspec.structs.replace(usage, prompt_tokens=self._asked.likely_prompt)

    def why_not_resumable(self) -> str | None:
        """Why no backend can continue this answer; None if one could."""
        asked = self._asked
        if self._not_text is not None:
            return self._not_text
        if isinstance(asked.prompt, tuple):
            return "the prompt is given as tokens"
        if asked.suffix:
            return "it is followed by a suffix"
        if forced_tools.is_forced(asked):
            return "a tool call is required"
        if (asked.response_format or {}).get("type", "text") != "text":
            return "the output is constrained"
        if asked.logprobs:
            return "log-probabilities were asked for"
        if asked.seed is not None and not self._greedy:
            return "the seed is pinned"
        if self.tokens > asked.max_tokens:
            return "it is longer than max_tokens"
        return None

    @property
    def reached_max_tokens(self) -> bool:
        """True if ``max_tokens`` were sent, so that only the end of the answer is missing."""
        return self._not_text is None and self.tokens == self._asked.max_tokens

    def end(self) -> list[Event]:
        """The last events of an answer that has ``reached_max_tokens``."""
        usage = _usage(self.prompt, self.tokens)
        return [Finish("length"), self._with_prompt(usage) if usage.estimated else usage]

    def resume(self) -> None:
        """Make ``request`` ask for the rest of the answer."""
        pieces, tokens = self._solid if self._greedy else (len(self._text), self.tokens)
        so_far, repeated = "".join(self._text[:pieces]), "".join(self._text[pieces:])
        self._text = [so_far, repeated]
        self._solid = (1, tokens)
        self.progressed = False
        self._seam = _Seam(tokens, self.prompt, self._asked.stop, so_far, repeated)
        self.request = msgspec.structs.replace(
            self._asked,
            max_tokens=self._asked.max_tokens - tokens,
            min_tokens=max(0, self._asked.min_tokens - tokens),
            answer_so_far=so_far,
        )


def _what_it_is(delta: Delta) -> str:
    """Why an answer with this delta, which isn't text alone, can't be continued."""
    if delta.tool_calls:
        return "a tool call was sent"
    return "reasoning was sent" if delta.reasoning else "a refusal was sent"


class _Seam:
    """Joins one backend's events to those that others gave before.

    Args:
        tokens: how many of the answer's tokens the backend was given.
        prompt: the size of the client's own prompt, if it is known.
        before: the part of the answer that the backend was given.
        repeated: text that the client has beyond that, which the backend will generate once more.
    """

    def __init__(
        self,
        tokens: int,
        prompt: Prompt | None,
        stop: tuple[str, ...],
        before: str,
        repeated: str,
    ) -> None:
        self._prompt = prompt
        self._tokens = tokens
        self._generated = 0
        self._repeated = repeated
        self._held: list[Event] = []
        stops = SeamStops(stop, before + repeated)
        self._stops = stops if stops.possible else None

    def join(self, batch: list[Event]) -> list[Event]:
        """The events as they would be in an answer that was never cut."""
        joined: list[Event] = []
        for event in batch:
            if isinstance(event, Delta):
                self._generated += event.tokens
                delta = self._without_repetition(event) if self._repeated else event
                if delta is None:
                    continue
                if self._stops is not None and self._meets_stop(delta):
                    return [*joined, Finish("stop", self._stops.met), self._usage_so_far()]
                if self._stops is None:
                    joined += [*self._held, delta]
                    self._held = []
            elif isinstance(event, Prompt):
                if self._prompt is None:
                    self._prompt = self._own(event.tokens, event.cached_tokens)
                    joined.append(self._prompt)
            elif isinstance(event, Finish):
                joined += [*self._held, event]
            else:
                joined.append(self._usage(event))
        return joined

    def _without_repetition(self, delta: Delta) -> Delta | None:
        """The delta without text that the client has; None if nothing is left.

        If the backend takes another turn, what it generates instead is sent on.
        """
        common = _common(delta.text, self._repeated)
        text = delta.text[common:]
        self._repeated = "" if text else self._repeated[common:]
        if not (text or delta.reasoning or delta.tool_calls or delta.refusal):
            return None
        return msgspec.structs.replace(delta, text=text, pieces=())

    def _meets_stop(self, delta: Delta) -> bool:
        """True if the delta completes a stop string. It is held while it may be a part of one."""
        assert self._stops is not None
        verdict = self._stops.feed(delta.text)
        if verdict == "hold" and (delta.tool_calls or delta.reasoning or delta.refusal):
            verdict = "pass"  # the text ends there
        if verdict == "hold":
            self._held.append(delta)
        elif verdict == "pass":
            self._stops = None
        return verdict == "stop"

    def _own(self, tokens: int, cached: int) -> Prompt:
        """The client's prompt, without the answer so far, which the backend counted as prompt."""
        own = max(0, tokens - self._tokens)
        return Prompt(own, min(own, cached))

    def _usage(self, usage: Usage) -> Usage:
        """The usage of the whole answer."""
        completion = self._tokens + usage.completion_tokens
        prompt = self._prompt
        if prompt is None and not usage.estimated:
            prompt = self._own(usage.prompt_tokens, usage.cached_tokens)
        whole = _usage(prompt, completion, estimated=usage.estimated)
        return msgspec.structs.replace(whole, completion_details=usage.completion_details)

    def _usage_so_far(self) -> Usage:
        return _usage(self._prompt, self._tokens + self._generated)


def _usage(prompt: Prompt | None, completion: int, *, estimated: bool = False) -> Usage:
    if prompt is None:
        return Usage(0, completion, estimated=True)
    return Usage(prompt.tokens, completion, prompt.cached_tokens, estimated=estimated)


def _common(one: str, other: str) -> int:
    """The length of the common beginning of two texts."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


Verdict: TypeAlias = Literal["pass", "hold", "stop"]


class SeamStops:
    """Looks for a stop string that began before the seam.

    An engine looks for stop strings in what it generates itself, so one that spans the seam of two
    engines is seen by neither.

    Args:
        before: the text before the seam.

    ``met`` is the stop string that was completed, once one was.
    """

    __slots__ = ("_rests", "_seen", "met")

    def __init__(self, stops: Sequence[str], before: str) -> None:
        self.met: str | None = None
        self._seen = ""
        self._rests = [
            (stop[length:], stop)
            for stop in stops
            for length in range(1, len(stop))
            if before.endswith(stop[:length])
        ]
        """What has to follow, for each stop string that may have begun."""

    @property
    def possible(self) -> bool:
        """True while any of them may still be completed."""
        return bool(self._rests)

    def feed(self, text: str) -> Verdict:
        """Take the next text after the seam.

        Returns:
            ``stop``: it completes one, and nothing since the seam belongs to the answer. ``hold``:
            it may be a part of one. ``pass``: no stop string spans the seam.
        """
        self._seen += text
        # As in a text that was never cut, the one that is complete first ended it.
        met = [(len(rest), stop) for rest, stop in self._rests if self._seen.startswith(rest)]
        if met:
            self.met = min(met)[1]
            return "stop"
        self._rests = [one for one in self._rests if one[0].startswith(self._seen)]
        return "hold" if self._rests else "pass"
