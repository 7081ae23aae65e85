"""Errors as Livepeer's and OpenAI's clients parse them."""

from __future__ import annotations

import json

from reverie.errors import IdempotencyKeyReused, InvalidRequest, ModelNotFound
from reverie.http.dialects import LIVEPEER, OPENAI
from reverie.http.dialects.base import Dialect


def test_an_error_names_its_message_type_field_and_code(dialect: Dialect) -> None:
    error = ModelNotFound("There is no such model here.", param="model")
    body = json.loads(dialect.error_body(error))
    assert body["error"] == {
        "message": "There is no such model here.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert body["detail"] == {"msg": "There is no such model here."}


def test_a_status_may_differ_between_dialects() -> None:
    error = ModelNotFound("There is no such model here.")
    assert (LIVEPEER.status(error), OPENAI.status(error)) == (400, 404)


def test_detail_is_a_list_wherever_the_status_is_422() -> None:
    error = InvalidRequest("top_p: Input should be 1 or less.", param="top_p")
    assert json.loads(LIVEPEER.error_body(error))["detail"] == [
        {"loc": ["body", "top_p"], "msg": error.message, "type": "value_error"}
    ]
    assert json.loads(OPENAI.error_body(error))["detail"] == {"msg": error.message}
    for dialect in (LIVEPEER, OPENAI):
        reused = IdempotencyKeyReused()
        assert dialect.status(reused) == 422
        (detail,) = json.loads(dialect.error_body(reused))["detail"]
        assert detail["loc"] == ["header", "Idempotency-Key"]
