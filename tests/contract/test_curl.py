"""curl, as the documentation and the server itself say."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def shell(command: str) -> str:
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def events(output: str) -> list[str]:
    return [line[6:] for line in output.splitlines() if line.startswith("data: ")]


def test_the_printed_line_works_when_pasted(served) -> None:
    command = re.search(r"^curl.*?-N$", served.printed, re.DOTALL | re.MULTILINE)
    assert command is not None
    received = events(shell(command.group()))
    assert received[-1] == "[DONE]"
    assert json.loads(received[-2])["choices"][0]["finish_reason"] in ("stop", "length")


def test_the_banner_names_the_models_the_store_and_a_command_that_works(served) -> None:
    told = dict(re.findall(r"^(Models|Accounts|Command): +(.+)$", served.printed, re.MULTILINE))
    assert told["Models"] == "smollm2-135m (default)"
    assert Path(told["Accounts"]).is_file()
    assert "reverie serve" in shell(told["Command"])


def test_the_readmes_line_works(served) -> None:
    text = (ROOT / "README.md").read_text()
    command = re.search(r"```sh\n(curl .*?)```", text, re.DOTALL)
    assert command is not None
    answer = json.loads(shell(command.group(1).replace("http://127.0.0.1:8000", served.url)))
    assert answer["choices"][0]["message"]["content"]


def test_the_page_that_started_the_project_works(served) -> None:
    """Livepeer's documented request: every default spelled out, and an empty model."""
    body = {
        "messages": [{"role": "user", "content": "Say hello."}],
        "model": "",
        "temperature": 0.7,
        "max_tokens": 16,
        "top_p": 1,
        "top_k": -1,
        "stream": False,
    }
    answer = json.loads(
        shell(
            f"curl -sS --request POST --url {served.url}/llm "
            "--header 'Authorization: Bearer <token>' "
            f"--header 'Content-Type: application/json' --data '{json.dumps(body)}'"
        )
    )
    assert set(answer) >= {"id", "model", "created", "usage", "choices"}
    assert "delta" not in answer["choices"][0]


def test_with_keys_the_printed_line_names_none(keyed) -> None:
    assert "contract-key" not in keyed.printed
    assert "Authorization: Bearer YOUR_KEY" in keyed.printed
    status = shell(
        f"curl -s -o /dev/null -w '%{{http_code}}' {keyed.url}/llm "
        "-H 'Authorization: Bearer another' "
        """-d '{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}'"""
    )
    assert status == "200"
