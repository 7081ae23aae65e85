"""The size of what isn't generation: never less than an engine may count."""

from __future__ import annotations

import pytest

from reverie.tasks import DetokenizeRequest, EmbedRequest, RerankRequest


def test_a_text_has_at_most_as_many_tokens_as_bytes_and_the_marks_around_it() -> None:
    few, many = EmbedRequest(["", "wörld " * 50]).bounds
    assert few >= 2  # [CLS] and [SEP]
    assert many >= 7 * 50 + 2


def test_token_ids_are_as_many_as_there_are() -> None:
    request = EmbedRequest([[1, 2, 3], [4]])
    assert list(request.bounds) == [3, 1]
    assert request.estimate == 4


def test_each_document_is_read_with_the_query() -> None:
    request = RerankRequest("q" * 100, ["a", "b" * 50])
    assert [bound >= 100 + more for bound, more in zip(request.bounds, (1, 50), strict=True)] == [
        True,
        True,
    ]
    assert request.estimate < sum(request.bounds)


@pytest.mark.parametrize("tokens", [[], [1, 2]])
def test_what_is_not_read_by_a_model_has_no_size(tokens: list[int]) -> None:
    request = DetokenizeRequest(tokens)
    assert (list(request.bounds), request.estimate) == ([], 0)
