"""The code that is run of pages which have no test of their own."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from reverie import ai_models
from reverie.testing import Script, ScriptedEngine, ThreadedEngine
from tests.cli.command import reverie_here
from tests.contract.node import output_of
from tests.docs.snippets import ROOT, Snippet, run_of, snippets_of
from tests.docs.test_snippets import commands
from tests.harness import StartGateway

pytestmark = pytest.mark.integration

ADDRESS = "http://127.0.0.1:8000"
ADMIN_KEY = "the-admin-key-of-a-reader"


def split(page: str) -> tuple[list[Snippet], list[Snippet]]:
    """The blocks of a page that are run: those that call a server, and those with commands."""
    snippets = run_of(page)
    calls = [snippet for snippet in snippets if "curl" in snippet.text]
    return calls, [snippet for snippet in snippets if snippet not in calls]


def test_the_commands_of_accounts_work_one_after_the_other(tmp_path: Path) -> None:
    _, scripts = split("accounts.md")
    store = {"REVERIE_STORE_URL": f"sqlite:///{tmp_path}/reverie.db", "COLUMNS": "200"}
    given = [command for script in scripts for command in commands(script.text)]
    assert len(given) > 10
    printed = []
    for name, arguments in given:
        assert name == "reverie"
        done = reverie_here(*arguments, **store)
        assert done.returncode == 0, (arguments, done.stderr)
        printed.append((arguments, done.stdout))
    found = [output for arguments, output in printed if "--search" in arguments]
    assert all("alice" in output and "team:search" in output for output in found)


async def test_the_calls_of_accounts_work(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(
        engine,
        model={"name": "smollm2-135m"},
        environ={"REVERIE_API_KEYS": "a-reader-s", "REVERIE_ADMIN_KEY": ADMIN_KEY},
    )
    tomorrow = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_400))
    answers = []
    for snippet in split("accounts.md")[0]:
        # The day on which the page's key ends comes.
        text = re.sub(r'(?<="expires_at": ")[^"]+', tomorrow, snippet.text)
        environ = {"KEY": "a-reader-s", "REVERIE_ADMIN_KEY": ADMIN_KEY}
        # One answer hands out a secret, which may be on no process's standard output.
        answer = tmp_path / "answer.json"
        script = f"{{ {text.replace(ADDRESS, gateway.url)}\n}} > {answer}"
        await output_of("bash", "-c", script, env=environ)
        answers.append(json.loads(answer.read_text()))
    usage, key = answers
    assert usage["key"]["name"] == "static-1"
    assert (key["name"], key["tags"]) == ("alice", ["prod", "team:search"])
    assert key["secret"]


async def test_the_calls_of_operations_work(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(
        engine, model={"name": "big"}, environ={"REVERIE_ADMIN_KEY": ADMIN_KEY}
    )
    calls, others = split("operations.md")
    assert others == []
    host = engine.url.split("/")[2]
    answers = []
    for snippet in calls:
        script = snippet.text.replace(ADDRESS, gateway.url).replace("10.0.0.7:9100", host)
        written = await output_of("bash", "-c", script, env={"REVERIE_ADMIN_KEY": ADMIN_KEY})
        answers.append(json.loads(written))
    reloaded, drained = answers
    assert (reloaded["object"], reloaded["changed"]) == ("reload", [])
    assert (drained["model"], drained["draining"]) == ("big", True)


async def test_the_scripted_engine_tests_a_client_as_its_page_says() -> None:
    """The page's two clients show what they got, and that it isn't all."""
    in_a_test, in_a_thread = run_of("testing.md")
    names: dict[str, Any] = {"my_client": read_what_comes}
    exec(in_a_test.text, names)
    await names["test_my_client_shows_what_it_got_before_the_engine_died"]()
    exec(in_a_thread.text, {**globals(), "my_blocking_client": ask_twice})


class Incomplete:
    def __init__(self, text: str, incomplete: bool) -> None:
        self.text, self.incomplete = text, incomplete


async def read_what_comes(client: Any) -> Incomplete:
    text = ""
    try:
        async for chunk in await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
        ):
            text += chunk.choices[0].delta.content or ""
    except Exception:
        return Incomplete(text, incomplete=True)
    return Incomplete(text, incomplete=False)


def ask_twice(base_url: str) -> None:
    import openai

    with openai.OpenAI(base_url=base_url, api_key="any", max_retries=1) as client:
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])


assert Script, ThreadedEngine  # the page's second block has them from its first


def test_the_orchestrators_file_is_one_that_reverie_serves(tmp_path: Path) -> None:
    shown = next(s for s in snippets_of(ROOT / "docs" / "livepeer.md") if s.language == "json")
    file = tmp_path / "aiModels.json"
    file.write_text(shown.text)
    read = ai_models.read(file)
    assert [model.name for model in read.models] == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert list(read.remarks) == []
