"""The table of clients in docs/clients.md: each mark in it is a test that runs that client."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_docs import ROOT

TESTS = Path(__file__).parents[1]
COLUMNS = ("answer", "stream", "tools", "thinking", "JSON", "count", "vectors", "errors")
RUN_FROM_THE_PAGE = "docs/test_clients.py::test_what_the_page_says_works"
TESTED: dict[str, dict[str, str]] = {
    "curl": {
        "answer": "contract/test_curl.py::test_the_readmes_line_works",
        "stream": RUN_FROM_THE_PAGE,
    },
    "Livepeer's SDK (Python)": {
        "answer": "contract/test_livepeer.py::test_an_answer_is_parsed",
        "errors": "contract/test_livepeer.py::test_a_validation_error_is_parsed",
    },
    "OpenAI's SDK (Python), chat": {
        "answer": "contract/test_openai.py::test_the_default_model_answers_to_its_name_on_the_hub",
        "stream": "contract/test_openai.py::test_a_stream_has_openais_shape",
        "tools": "contract/test_openai.py::test_a_conversation_with_tool_results_is_understood",
        "thinking": "contract/test_openai.py::test_an_answer_with_its_reasoning_can_be_sent_back",
        "JSON": "contract/test_openai.py::test_a_json_schema_constrains_the_answer",
        "vectors": (
            "faults/test_real_embeddings.py::test_openai_s_client_gets_them_and_the_engine_counts"
        ),
        "errors": "contract/test_openai.py::test_each_mistake_raises_its_own_error",
    },
    "OpenAI's SDK (Python), Responses": {
        "answer": "contract/test_openai_responses.py::test_a_response",
        "stream": "contract/test_openai_responses.py::test_a_stream_is_the_same_response",
        "tools": (
            "contract/test_openai_responses.py"
            "::test_a_function_is_called_and_its_result_is_answered"
        ),
        "JSON": "contract/test_openai_responses.py::test_an_answer_is_parsed_into_a_type",
        "count": (
            "contract/test_openai_responses.py::test_a_prompt_is_counted_as_the_engine_counts_it"
        ),
        "errors": "contract/test_openai_responses.py::test_errors_are_the_sdk_s_own",
    },
    "Anthropic's SDK (Python)": {
        "answer": "contract/test_anthropic.py::test_a_message",
        "stream": "contract/test_anthropic.py::test_a_stream_is_the_same_message",
        "tools": "contract/test_anthropic.py::test_a_tool_is_called_and_its_result_is_answered",
        "count": "contract/test_anthropic.py::test_a_prompt_is_counted_as_the_engine_counts_it",
        "errors": "contract/test_anthropic.py::test_errors_are_those_that_the_sdk_knows",
    },
    "Ollama's client (Python)": {
        "answer": "contract/test_ollama.py::test_a_chat",
        "stream": "contract/test_ollama.py::test_a_stream_is_the_same_chat",
        "tools": (
            "contract/test_ollama.py"
            "::test_tools_that_are_python_functions_are_taken_and_results_come_back"
        ),
        "JSON": "contract/test_ollama.py::test_a_format_constrains_the_answer",
        "errors": "contract/test_ollama.py::test_a_mistake_is_an_error_with_a_sentence",
    },
    "SDKs of OpenAI, Anthropic and Vercel (JavaScript)": dict.fromkeys(
        ("stream", "tools", "thinking"),
        "contract/test_javascript.py::test_a_stream_is_what_was_sent",
    ),
    "Livepeer's SDK (JavaScript)": {"answer": RUN_FROM_THE_PAGE},
    "LangChain (JavaScript)": {"stream": RUN_FROM_THE_PAGE},
    "httpx, fetch": {"stream": RUN_FROM_THE_PAGE},
    "llm": {"stream": RUN_FROM_THE_PAGE},
    "Open WebUI": dict.fromkeys(
        ("answer", "stream"),
        "contract/test_open_webui.py::test_each_of_its_requests_is_answered",
    ),
    "OpenAI's agents": dict.fromkeys(
        ("answer", "stream", "tools"),
        "contract/test_python_clients.py::test_openai_s_agents_call_a_tool_and_go_on",
    ),
    "LangChain": dict.fromkeys(
        ("stream", "tools"),
        "contract/test_python_clients.py::test_langchain_reads_both_of_openai_s_dialects",
    ),
    "LlamaIndex": dict.fromkeys(
        ("stream", "vectors"),
        "contract/test_python_clients.py::test_llama_index_generates_and_embeds",
    ),
    "Codex": dict.fromkeys(
        ("stream", "tools"),
        "contract/test_agents.py::test_codex_runs_a_command_and_reads_its_result",
    ),
    "Claude Code": dict.fromkeys(
        ("stream", "tools"),
        "contract/test_agents.py::test_claude_code_runs_a_command_and_reads_its_result",
    ),
}


def test_the_page_has_a_mark_for_each_test_and_no_other() -> None:
    head = " | ".join(("client", *COLUMNS))
    rows = [f"| {head} |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for client, tested in TESTED.items():
        marks = " | ".join("✓" if column in tested else "" for column in COLUMNS)
        rows.append(f"| {client} | {marks} |")
    assert "\n".join(rows) in (ROOT / "docs" / "clients.md").read_text()


@pytest.mark.parametrize(
    "place", sorted({place for tested in TESTED.values() for place in tested.values()})
)
def test_each_mark_is_a_test_that_there_is(place: str) -> None:
    file, _, name = place.partition("::")
    assert re.search(rf"^(?:async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE)
