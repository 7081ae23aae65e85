"""What several generations for one request came to, wherever it ended."""

from __future__ import annotations

from reverie.events import Delta, Finish, Prompt, Usage
from reverie.gateway.choices import merge
from reverie.gateway.record import RequestRecord
from reverie.request import GenerateRequest


def prompt(text: str, *, counts_prompt: bool = True) -> GenerateRequest:
    return GenerateRequest(model="m", messages=[], prompt=text, counts_prompt=counts_prompt)


def test_of_an_answer_that_ends_early_the_choices_that_ended_count_as_their_engine_says() -> None:
    requests = [prompt("a"), prompt("a", counts_prompt=False)]
    record = RequestRecord("req", "/v1/completions")
    whole, cut = parts = [record.another("choice") for _ in requests]
    whole.saw([Delta("one two three"), Finish("stop"), Usage(5, 30)])
    cut.saw([Delta("one"), Delta(" two")])
    merge(record, parts, requests)
    assert (record.prompt_tokens, record.pieces, record.completion_tokens) == (5, 32, None)


def test_of_an_answer_that_ends_early_the_prompts_count_that_were_read() -> None:
    requests = [prompt("7" * size) for size in (300, 600, 900, 1200)]
    record = RequestRecord("req", "/v1/completions")
    whole, cut, told, _ = parts = [record.another("choice") for _ in requests]
    whole.saw([Delta("one"), Finish("stop"), Usage(111, 1)])
    cut.saw([Delta("one")])
    told.saw([Prompt(333)])
    merge(record, parts, requests, ended=True)
    assert record.prompt_tokens == 111 + requests[1].prompt_estimate + 333
