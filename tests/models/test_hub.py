"""``reverie pull`` of models from a hub on this machine."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reverie.models.hub import choose, parts_of
from tests.models.file_server import FileServer
from tests.models.gguf_file import SMALL
from tests.models.hub_server import HubServer
from tests.models.small_disk import on_a_small_disk

MODEL = SMALL + bytes(range(256)) * 1000
SPLIT = [f"m.Q4_0-{number:05}-of-00003.gguf" for number in (1, 2, 3)]

_WITHOUT_PAUSES = """
import time
time.sleep = lambda seconds: None
from reverie.cli import main
main()
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(repos={"owner/repo": {"README.md": b"Hi", "m.Q4_0.gguf": MODEL}}) as hub:
        yield hub


@pytest.fixture(autouse=True)
def hf_home(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    hub.use(monkeypatch, tmp_path / "hf")
    return tmp_path / "hf"


def command(ref: str, *, pauses: bool = False) -> list[str]:
    program = ["-m", "reverie"] if pauses else ["-c", _WITHOUT_PAUSES]
    return [sys.executable, *program, "pull", ref]


def pull(ref: str, **environ: str) -> Path:
    """Pull a model, successfully. Gives the path that the command prints."""
    done = subprocess.run(
        command(ref), env=os.environ | environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.partition(": ")[2].partition(" (")[0])


def refusal(ref: str, **environ: str) -> str:
    """Pull a model that can't be fetched. Gives the error message."""
    done = subprocess.run(
        command(ref), env=os.environ | environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    return last.removeprefix("error: ")


def test_a_named_file_is_fetched_into_the_hubs_own_cache(hub: HubServer, hf_home: Path) -> None:
    path = pull("hf:owner/repo/m.Q4_0.gguf")
    assert path.read_bytes() == MODEL
    assert path.is_relative_to(hf_home / "hub" / "models--owner--repo")
    assert [(request.range, request.sent) for request in hub.cdn.requests] == [(None, len(MODEL))]


def test_the_command_as_installed_does_the_same(hub: HubServer) -> None:
    done = subprocess.run(
        command("hf:owner/repo", pauses=True), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("hf:owner/repo is ready: ")
    first, last = done.stderr.splitlines()
    assert first == "fetching owner/repo/m.Q4_0.gguf (0.3 MB)"
    assert last.startswith("fetched owner/repo/m.Q4_0.gguf: 0.3 MB")


@pytest.mark.parametrize("ref", ["hf:owner/repo", "hf:owner/repo/m.Q4_0.gguf"])
def test_what_was_fetched_needs_no_network(hub: HubServer, ref: str) -> None:
    path = pull(ref)
    hub.requests.clear()
    hub.cdn.requests.clear()
    assert pull(ref) == path
    assert pull(ref, HF_HUB_OFFLINE="1") == path
    assert hub.requests == hub.cdn.requests == []


@pytest.mark.parametrize("ref", ["hf:owner/repo", "hf:owner/repo/m.Q4_0.gguf"])
def test_offline_and_not_in_the_cache_is_one_sentence(hub: HubServer, ref: str) -> None:
    message = refusal(ref, HF_HUB_OFFLINE="1")
    assert message.startswith("The hub can't be reached for owner/repo, and the file is not in ")
    assert "HF_HUB_OFFLINE" in message
    assert hub.requests == []


@pytest.mark.parametrize("ref", ["hf:owner/repo", "hf:owner/repo/m.Q4_0.gguf"])
def test_a_hub_that_is_not_there_is_one_sentence(ref: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    message = refusal(ref, HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert message.startswith("The hub can't be reached for owner/repo")
    assert "HF_ENDPOINT" in message


def test_an_address_that_is_none_is_one_sentence() -> None:
    assert "HF_ENDPOINT" in refusal("hf:owner/repo", HF_ENDPOINT="nonsense")


def test_a_server_that_is_no_hub_is_one_sentence(server: FileServer) -> None:
    server.files["/owner/repo/resolve/main/m.gguf"] = MODEL
    assert "HF_ENDPOINT" in refusal("hf:owner/repo/m.gguf", HF_ENDPOINT=server.url)


@pytest.mark.parametrize("ref", ["hf:owner/repo", "hf:owner/repo/m.Q4_0.gguf"])
def test_a_hub_in_trouble_is_named_with_its_status(hub: HubServer, ref: str) -> None:
    hub.broken = 503
    assert refusal(ref) == "The hub answered 503 for owner/repo. Try again later."


def test_a_repository_that_is_not_there_is_named() -> None:
    assert "There is no repository owner/none" in refusal("hf:owner/none")
    assert "There is no repository owner/none" in refusal("hf:owner/none/m.gguf")


def test_a_file_that_is_not_there_is_named() -> None:
    assert refusal("hf:owner/repo/n.gguf") == "owner/repo holds no file n.gguf."


def test_a_repository_without_a_model_is_told(hub: HubServer) -> None:
    hub.repos["owner/repo"] = {"model.safetensors": b"", "mmproj-model.gguf": SMALL}
    assert refusal("hf:owner/repo") == "The repository owner/repo holds no .gguf file."


def test_a_name_that_no_repository_can_have_is_told() -> None:
    assert "not a repository's name" in refusal("hf:owner/repo.git")


def test_a_file_that_is_no_model_is_told(hub: HubServer) -> None:
    hub.repos["owner/repo"] = {"m.gguf": b"<html>"}
    assert refusal("hf:owner/repo") == "m.gguf is not a GGUF model file."


def test_a_gated_model_wants_the_right_token(hub: HubServer) -> None:
    hub.gated["owner/repo"] = "hf_good"
    assert "owner/repo is gated" in refusal("hf:owner/repo")
    assert "set HF_TOKEN" in refusal("hf:owner/repo", HF_TOKEN="hf_other")
    assert "HF_TOKEN" in refusal("hf:owner/repo", HF_TOKEN="hf_expired")
    hub.requests.clear()
    assert pull("hf:owner/repo", HF_TOKEN="hf_good").read_bytes() == MODEL
    assert "authorization" in hub.requests[-1].headers
    assert all("authorization" not in request.headers for request in hub.cdn.requests)


def test_a_broken_connection_is_taken_up(hub: HubServer) -> None:
    block = 10 * 1024 * 1024  # huggingface_hub writes this much at a time
    model = hub.repos["owner/repo"]["m.Q4_0.gguf"] = SMALL + random.Random(3).randbytes(block)
    hub.cdn.cuts = [block + 100]
    assert pull("hf:owner/repo").read_bytes() == model
    asked = [(request.range, request.sent) for request in hub.cdn.requests]
    assert asked == [(None, block + 100), (f"bytes={block}-", len(model) - block)]


def test_wrong_bytes_are_refused_and_the_next_try_is_clean(hub: HubServer, hf_home: Path) -> None:
    hub.garbled = True
    assert "wrong checksum" in refusal("hf:owner/repo")
    assert "not in the cache" in refusal("hf:owner/repo/m.Q4_0.gguf", HF_HUB_OFFLINE="1")
    hub.garbled = False
    assert pull("hf:owner/repo").read_bytes() == MODEL


def test_ctrl_c_leaves_nothing_that_looks_like_a_model(hub: HubServer, hf_home: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()
    hub.cdn.after_bytes = (100_000, lambda: (reached.set(), go_on.wait(60)))
    with subprocess.Popen(
        command("hf:owner/repo"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert reached.wait(30)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    go_on.set()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert list(hf_home.rglob("*.gguf")) == []
    hub.cdn.after_bytes = None
    assert pull("hf:owner/repo").read_bytes() == MODEL


def test_a_full_disk_is_one_sentence_and_left_empty(hub: HubServer, hf_home: Path) -> None:
    hub.repos["owner/repo"]["m.Q4_0.gguf"] = MODEL * 10
    hf_home.mkdir()
    script = 'HF_HOME=$0 "$@"; echo $?; find "$0" -size +100k'
    done = on_a_small_disk(hf_home, ["sh", "-c", script, str(hf_home), *command("hf:owner/repo")])
    assert done.stdout.split() == ["1"]
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: The disk is full. Make room, or set HF_HOME to another disk."
    )


def test_a_cache_that_can_not_be_used_is_one_sentence(hf_home: Path) -> None:
    hf_home.write_text("a file")
    assert "can't be fetched: Not a directory" in refusal("hf:owner/repo/m.Q4_0.gguf")


@pytest.mark.parametrize("ref", ["hf:owner/split", f"hf:owner/split/{SPLIT[0]}"])
def test_a_split_model_is_fetched_whole_and_named_by_its_first_part(
    hub: HubServer, ref: str
) -> None:
    hub.repos["owner/split"] = {name: SMALL + bytes([n]) for n, name in enumerate(SPLIT)}
    path = pull(ref)
    assert path.name == SPLIT[0]
    assert sorted(part.name for part in path.parent.iterdir()) == SPLIT
    assert pull(ref, HF_HUB_OFFLINE="1") == path


def test_of_a_split_model_only_what_is_missing_is_fetched(hub: HubServer) -> None:
    hub.repos["owner/split"] = {name: SMALL + bytes([n]) for n, name in enumerate(SPLIT)}
    path = pull("hf:owner/split")
    path.with_name(SPLIT[1]).resolve().unlink()
    path.with_name(SPLIT[1]).unlink()
    hub.cdn.requests.clear()
    assert pull("hf:owner/split") == path
    assert path.with_name(SPLIT[1]).exists()
    assert len(hub.cdn.requests) == 1


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        ([], None),
        (["README.md", "model.safetensors"], None),
        (["mmproj-F16.gguf"], None),
        (["only.gguf"], "only.gguf"),
        (["only.IQ2_XS.gguf", "mmproj-Q4_0.gguf"], "only.IQ2_XS.gguf"),
        (["m-F16.gguf", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q2_K.gguf"], "m-Q4_K_M.gguf"),
        (["m.Q8_0.gguf", "m.Q4_0.gguf", "m.F16.gguf"], "m.Q4_0.gguf"),
        (["m_q8_0.GGUF", "m_f16.GGUF"], "m_q8_0.GGUF"),
        (["m-BF16.gguf", "m-F16.gguf"], "m-F16.gguf"),
        (["m-Q4_0_4_4.gguf", "m-Q8_0.gguf"], "m-Q8_0.gguf"),
        (["m-Q3_K_L.gguf", "m-IQ1_S.gguf"], "m-IQ1_S.gguf"),
        (["Q8_0/m.gguf", "IQ1_S/m.gguf"], "Q8_0/m.gguf"),
        (["Q8_0.gguf", "IQ1_S.gguf"], "Q8_0.gguf"),
        ([*SPLIT[::-1], "m-Q8_0.gguf"], SPLIT[0]),
        (SPLIT[1:], None),
    ],
)
def test_one_file_of_several_is_chosen(files: list[str], chosen: str | None) -> None:
    assert choose(files) == chosen
    assert choose(files[::-1]) == chosen


def test_the_parts_of_a_model_are_counted_by_its_name() -> None:
    assert parts_of("m.gguf") == ["m.gguf"]
    assert parts_of(f"sub/{SPLIT[1]}") == [f"sub/{name}" for name in SPLIT]
