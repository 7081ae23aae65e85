"""Models in Ollama's form: what is known is told, and the rest is blank."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from reverie.app import Application
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.ollama.models import NEVER, human, running, show, tags
from reverie.settings import Settings
from reverie.testing import ScriptedEngine
from tests.harness import Gateway, StartGateway
from tests.models.gguf_file import gguf, number, tensor, text


@pytest.fixture
async def ollama(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    return await start_gateway(engine, server={"ollama": True})


def served(*models: dict[str, Any]) -> list[ServedModel]:
    """Models of a configuration whose backends were never started."""
    settings = Settings.model_validate({"models": models, "store": {"url": "none"}})
    return Application(settings, environ={}).models.all


def elsewhere(**backend: Any) -> dict[str, Any]:
    return {"name": "m", "backends": [{"url": "http://127.0.0.1:9/v1", **backend}]}


async def test_each_name_is_listed_with_a_tag_and_honest_blanks(ollama: Gateway) -> None:
    listed = (await ollama.get("/api/tags"))[1]["models"]
    assert [entry["model"] for entry in listed] == ["m:latest", "alias:latest"]
    entry = listed[0]
    assert entry["name"] == entry["model"]
    assert (entry["size"], entry["details"]["format"]) == (0, "")
    assert (entry["details"]["family"], entry["details"]["families"]) == ("", [])
    assert len(entry["digest"]) == 64
    assert datetime.fromisoformat(entry["modified_at"]).year > 2000


async def test_models_that_can_answer_are_running(ollama: Gateway) -> None:
    (entry,) = (await ollama.get("/api/ps"))[1]["models"]
    assert (entry["name"], entry["expires_at"], entry["size_vram"]) == ("m:latest", NEVER, 0)
    assert datetime.fromisoformat(entry["expires_at"]).year == 1


async def test_a_file_s_facts_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    file = tmp_path / "small.gguf"
    file.write_bytes(
        gguf(
            text("general.architecture", "qwen3"),
            number("general.file_type", 15),
            number("qwen3.context_length", 2048),
            text("tokenizer.chat_template", "{% if enable_thinking %}{{ messages }}{% endif %}"),
            tensors=(tensor("t", 1000, 2000, kind=0),),
            data=8_000_000,
        )
    )
    (model,) = served({"name": "m", "source": str(file), "warm": False})
    await model.deployment.prepare()
    (entry,) = (await tags([model]))["models"]
    assert entry["size"] == file.stat().st_size
    assert entry["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "qwen3",
        "families": ["qwen3"],
        "parameter_size": "2.00M",
        "quantization_level": "Q4_K_M",
        "context_length": 2048,
    }
    shown = await show(model)
    assert shown["model_info"] == {
        "general.architecture": "qwen3",
        "general.basename": "m",
        "general.parameter_count": 2_000_000,
        "qwen3.context_length": 2048,
    }
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert "enable_thinking" in shown["template"]
    assert (await running([model]))["models"] == []


async def test_only_what_all_backends_can_do_is_a_capability() -> None:
    async def capabilities(**backend: Any) -> list[str]:
        found: list[str] = (await show(served(elsewhere(**backend))[0]))["capabilities"]
        return found

    assert await capabilities(kind="vllm") == ["completion", "tools"]
    assert await capabilities(kind="vllm", vision=True) == ["completion", "tools", "vision"]
    assert await capabilities(kind="livepeer") == ["completion"]


async def test_what_is_not_known_of_a_model_elsewhere_is_blank() -> None:
    shown = await show(served(elsewhere())[0])
    assert shown["model_info"]["general.architecture"] == "unknown"
    assert shown["model_info"]["unknown.context_length"] == 0
    assert (shown["template"], shown["license"]) == ("", "")


@pytest.mark.parametrize(
    ("count", "written"),
    [(999, "999"), (45_000, "45K"), (134_515_008, "134.52M"), (8_030_261_248, "8.0B")],
)
def test_parameters_are_written_as_ollama_writes_them(count: int, written: str) -> None:
    assert human(count) == written
