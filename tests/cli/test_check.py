"""``reverie check``: what would run, or each mistake."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest

from tests.cli.command import errors, reverie, reverie_here

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("REVERIE_API_KEYS", raising=False)
    return tmp_path


def write(folder: Path, text: str, name: str = "reverie.toml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def accounts(folder: Path) -> str:
    """The line that names the default store."""
    return f"Accounts: {folder}/state/reverie/reverie.db"


def test_without_a_configuration_it_says_what_the_default_is(folder: Path) -> None:
    done = reverie("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Would listen on 127.0.0.1 port 8000, for callers without a key.",
        "Model smollm2-135m: run here by xllamacpp, 8 slots, on disk",
        accounts(folder),
    ]


def test_a_store_that_can_not_be_made_is_a_mistake_that_says_what_to_do(folder: Path) -> None:
    (folder / "file").touch()
    for url in (f"sqlite:///{folder}/file/reverie.db", "sqlite:////proc/reverie.db"):
        [mistake] = errors(reverie_here("check", REVERIE_STORE_URL=url))
        assert mistake.startswith("store.url: ")
        assert "can't be made" in mistake
        assert "REVERIE_STORE_URL" in mistake


def test_the_default_store_that_can_not_be_made_is_named(folder: Path) -> None:
    [mistake] = errors(reverie_here("check", XDG_STATE_HOME="/proc"))
    assert mistake.startswith("store.url: the folder /proc/reverie can't be made (")


def test_looking_makes_no_store(folder: Path) -> None:
    reverie_here("check")
    assert not list(folder.rglob("reverie.db*"))


def test_a_store_in_the_working_directory_is_not_used_and_named(folder: Path) -> None:
    (folder / "reverie.db").touch()
    done = reverie_here("check")
    assert (done.returncode, accounts(folder) in done.stdout) == (0, True)
    assert done.stderr.startswith("warning: the reverie.db in this directory isn't used; ")
    assert "REVERIE_STORE_URL=sqlite:///reverie.db" in done.stderr


def test_ollamas_port_is_named() -> None:
    done = reverie_here("check", "--ollama")
    assert "on 127.0.0.1 port 8000 and 127.0.0.1 port 11434," in done.stdout


def test_a_model_that_is_not_here_is_no_mistake(tmp_path: Path) -> None:
    done = reverie_here("check", REVERIE_HOME=str(tmp_path))
    assert done.returncode == 0
    assert "will be fetched first (reverie pull smollm2-135m)" in done.stdout


def test_a_file_is_read_and_backends_are_named(folder: Path) -> None:
    file = write(
        folder,
        """
        [server]
        port = 9000
        [[models]]
        name = "m"
        [[models.backends]]
        url = "http://127.0.0.1:9100/v1"
        api_key_env = "BIG_KEY"
        """,
        "other.toml",
    )
    done = reverie_here("check", "--config", str(file), REVERIE_API_KEYS="k" * 32, BIG_KEY="secret")
    assert (done.returncode, done.stderr) == (0, "")
    assert "port 9000, for callers with a key." in done.stdout
    assert "Model m: reached at http://127.0.0.1:9100/v1" in done.stdout
    assert "secret" not in done.stdout


def test_each_mistake_in_the_file_is_named_with_file_key_and_reason(folder: Path) -> None:
    write(
        folder,
        """
        [server]
        port = 70000
        qeue_size = 1
        log_format = "xml"
        [[models]]
        name = "m"
        """,
    )
    mistakes = errors(reverie_here("check"))
    assert [mistake.split(": ")[:2] for mistake in mistakes] == [
        ["reverie.toml", "server.port"],
        ["reverie.toml", "server.log_format"],
        ["reverie.toml", "server.qeue_size"],
        ["reverie.toml", "models[0]"],
    ]
    assert "'text' or 'json'" in mistakes[1]
    assert "queue_size" in mistakes[2]
    assert "needs either source" in mistakes[3]


def test_each_model_that_can_not_run_is_named_with_file_key_and_reason(folder: Path) -> None:
    (folder / "page.gguf").write_text("<html>")
    write(
        folder,
        """
        [server]
        host = "0.0.0.0"
        [[models]]
        name = "good"
        source = "smollm2-135m"
        [[models]]
        name = "unknown"
        source = "none"
        [[models]]
        name = "absent"
        source = "./none.gguf"
        [[models]]
        name = "foreign"
        source = "page.gguf"
        engine = "./llama-server"
        [[models]]
        name = "remote"
        [[models.backends]]
        url = "http://127.0.0.1:9100/v1"
        [[models.backends]]
        url = "http://127.0.0.1:9100/v1"
        api_key_env = "NO_SUCH_KEY"
        """,
    )
    done = reverie_here("check")
    host, *mistakes = errors(done)
    assert host.startswith("server.host: 0.0.0.0 can be reached from other machines")
    assert [mistake.split(": ", 2)[:2] for mistake in mistakes] == [
        ["reverie.toml", "models[1].source"],
        ["reverie.toml", "models[2].source"],
        ["reverie.toml", "models[3].source"],
        ["reverie.toml", "models[3].engine"],
        ["reverie.toml", "models[4].backends[1]"],
    ]
    assert "no such model in the catalogue (smollm2-135m)" in mistakes[0]
    assert "There is no model file none.gguf." in mistakes[1]
    assert "is not a GGUF model file." in mistakes[2]
    assert "./llama-server is not a program" in mistakes[3]
    assert "NO_SUCH_KEY" in mistakes[4]
    assert done.stdout.splitlines() == [
        "Model good: run here by xllamacpp, 8 slots, on disk",
    ]


@pytest.mark.parametrize(
    ("text", "reason"), [("port = = 1", "is not valid TOML"), (None, "there is no such file")]
)
def test_a_file_that_can_not_be_read_is_one_mistake(
    folder: Path, text: str | None, reason: str
) -> None:
    if text is not None:
        write(folder, text, "other.toml")
    (mistake,) = errors(reverie_here("check", "--config", "other.toml"))
    assert mistake.startswith(f"other.toml: {reason}")


def test_a_mistake_in_the_environment_is_named_by_its_variable() -> None:
    (mistake,) = errors(reverie_here("check", REVERIE_SERVER_PORT="many"))
    assert mistake.startswith("environment REVERIE_SERVER_PORT: server.port: ")


FLAGS = ("--host", "127.0.0.2", "--port", "9000", "--model", "page.gguf", "--no-auth")
VARIABLES = {
    "REVERIE_HOST": "127.0.0.2",
    "REVERIE_PORT": "9000",
    "REVERIE_MODEL": "page.gguf",
    "REVERIE_NO_AUTH": "1",
}


@pytest.mark.parametrize(("flags", "variables"), [(FLAGS, {}), ((), VARIABLES)])
def test_it_takes_what_serve_takes(
    folder: Path, flags: tuple[str, ...], variables: dict[str, str]
) -> None:
    (folder / "page.gguf").write_text("<html>")
    write(folder, '[server]\nport = 1\n[[models]]\nname = "m"\nsource = "smollm2-135m"\n')
    done = reverie_here("check", *flags, **variables)
    assert done.stdout.splitlines() == [
        "Would listen on 127.0.0.2 port 9000, for callers without a key.",
        accounts(folder),
    ]
    (mistake,) = errors(done)
    assert mistake.startswith("command line: model.source: ")


def test_no_auth_opens_an_address_that_needs_keys_otherwise() -> None:
    (mistake,) = errors(reverie_here("check", "--host", "0.0.0.0"))
    assert mistake.startswith("server.host: ")
    assert reverie_here("check", "--host", "0.0.0.0", REVERIE_NO_AUTH="1").returncode == 0


def test_a_backend_that_is_the_server_itself_is_a_warning(folder: Path) -> None:
    url = "http://localhost:9000/v1"
    write(folder, f'[[models]]\nname = "m"\n[[models.backends]]\nurl = "{url}"\n')
    done = reverie_here("check", "--port", "9000")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: model m: backends[0]: its URL is this server's own")
    assert reverie_here("check", "--port", "9001").stderr == ""


def test_a_file_that_can_be_read_once_is_read(folder: Path) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("[server]\nport = 9000\n",))
    writer.start()
    done = reverie_here("check", "--config", "pipe")
    writer.join()
    assert "port 9000" in done.stdout


def test_a_model_that_is_no_reference_is_a_mistake() -> None:
    (mistake,) = errors(reverie_here("check", "--model", "none"))
    assert "no such model in the catalogue" in mistake


AI_MODELS = """[
  {"pipeline": "llm", "model_id": "smollm2-135m", "warm": true},
  {"pipeline": "llm", "model_id": "big", "url": "http://10.0.0.5:8000", "token": "s3cret"},
  {"pipeline": "upscale", "model_id": "x"}
]"""


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_livepeer_file_is_read_and_what_of_it_has_no_effect_is_said(
    folder: Path, by_variable: bool
) -> None:
    write(folder, "[server]\nport = 9000\n")
    file = str(write(folder, AI_MODELS, "aiModels.json"))
    if by_variable:
        done = reverie_here("check", REVERIE_AI_MODELS=file)
    else:
        done = reverie_here("check", "--ai-models", file)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "Would listen on 127.0.0.1 port 9000, for callers without a key.",
        "Model smollm2-135m: run here by xllamacpp, 1 slots, on disk",
        "Model big: reached at http://10.0.0.5:8000",
        accounts(folder),
    ]
    assert done.stderr.splitlines() == [
        f"warning: {file}: [2].pipeline: 'upscale' is not served here, only 'llm'"
    ]


def test_a_mistake_in_a_livepeer_file_is_named_by_the_file(folder: Path) -> None:
    write(folder, '[{"pipeline": "llm", "model_id": "./none.gguf"}]', "ai.json")
    (mistake,) = errors(reverie_here("check", "--ai-models", "ai.json"))
    assert mistake.startswith("ai.json: ./none.gguf.source: There is no model file")
    write(folder, '[{"pipeline": "llm"}]', "ai.json")
    (mistake,) = errors(reverie_here("check", "--ai-models", "ai.json"))
    assert mistake == "ai.json: [0].model_id: Field required"


def test_models_are_given_in_one_place(folder: Path) -> None:
    write(folder, AI_MODELS, "ai.json")
    lines = reverie_here("check", "--ai-models", "ai.json", "--model", "smollm2-135m").stderr
    assert lines == "error: command line: --model and --ai-models exclude each other\n"
    write(folder, '[[models]]\nname = "m"\nsource = "smollm2-135m"\n')
    mistake = reverie_here("check", "--ai-models", "ai.json").stderr.splitlines()[-1]
    assert mistake.startswith("error: reverie.toml: models: the models are given by --ai-models")


def test_models_that_do_not_fit_into_their_memory_are_a_mistake(folder: Path) -> None:
    model = '[[models]]\nname = "{}"\nsource = "smollm2-135m"\nkv_tokens = 2048\ncache_mib = 0\n'
    head = "[server]\nmemory_budget_mib = {}\n"
    write(folder, head.format(200) + model.format("a") + model.format("b") + "warm = false\n")
    done = reverie_here("check")
    assert done.returncode == 0
    assert done.stdout.splitlines()[2].endswith("on disk, loaded when it is asked for")
    write(folder, head.format(200) + model.format("a") + model.format("b"))
    assert "need about 278 MiB together" in errors(reverie_here("check"))[0]
    write(folder, head.format(100) + model.format("a"))
    [problem] = errors(reverie_here("check"))
    assert problem == "model a: it needs about 139 MiB, and server.memory_budget_mib is 100"


def test_a_live_runners_file_is_standard_output_and_all_else_standard_error(folder: Path) -> None:
    write(folder, "[server]\nport = 9000\n")
    given = ("--label", "gpu", "--price", "0.002USD", "--runner-url", "http://10.0.0.7:9000")
    done = reverie_here("check", "--live-runner", *given)
    assert done.returncode == 0
    (runner,) = json.loads(done.stdout)["runners"]
    assert (runner["label"], runner["app"]) == ("gpu-smollm2-135m", "llm/smollm2-135m")
    assert (runner["runner_url"], runner["capacity"]) == ("http://10.0.0.7:9000", 8)
    assert runner["price_info"] == {"price": 0.002, "currency": "usd", "unit": "fixed"}
    told = done.stderr.splitlines()
    assert told[:3] == [
        "Would listen on 127.0.0.1 port 9000, for callers without a key.",
        "Model smollm2-135m: run here by xllamacpp, 8 slots, on disk",
        accounts(folder),
    ]
    assert told[3].startswith("warning: server.host: 127.0.0.1 is reached from this machine only")
    assert told[4].startswith("warning: no key is set, so what an orchestrator passes on")
    assert len(told) == 5


@pytest.mark.parametrize("open_to", [{"REVERIE_API_KEYS": "k" * 32}, {"REVERIE_NO_AUTH": "1"}])
def test_a_live_runner_that_lets_its_orchestrator_in_has_no_warning(
    open_to: dict[str, str],
) -> None:
    done = reverie_here("check", "--live-runner", "--price", "1USD/hour", **open_to)
    assert done.returncode == 0
    assert "warning" not in done.stderr
    assert "kkkk" not in done.stdout + done.stderr


def test_a_mistake_leaves_no_live_runners_file(folder: Path) -> None:
    done = reverie_here("check", "--live-runner", "--price", "1EUR")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: command line: --price: write more than 0 USD" in done.stderr
    write(folder, "[server]\nport = -1\n")
    assert errors(done := reverie_here("check", "--live-runner"))
    assert done.stdout == ""


@pytest.mark.parametrize("option", ["--runner-url", "--label", "--price"])
def test_the_options_of_live_runners_need_the_one_that_writes_them(option: str) -> None:
    (mistake,) = errors(reverie_here("check", option, "x"))
    assert mistake == "command line: --runner-url, --label and --price need --live-runner"


def test_models_of_a_cluster_are_told_and_a_head_that_is_away_is_one_mistake(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVERIE_CLUSTER_TOKEN", "0123456789abcdef")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        (folder / "reverie.toml").write_text(
            f"""
            [cluster]
            address = "{address}"
            [[models]]
            name = "far"
            source = "/on/the/machines/far.gguf"
            engine = "/on/the/machines/llama-server"
            engines = "1-3"
            gpus = 1
            slots = 8
            """
        )
        done = reverie("check")
    told = f"Model far: 1 to 3 engines in the cluster at {address}, each with 8 slots and 1 GPUs"
    assert told in done.stdout
    [problem] = errors(done)
    assert problem.startswith(f"reverie.toml: cluster.address: The cluster at {address} can't be")


def test_a_cluster_without_a_token_is_a_mistake(folder: Path) -> None:
    (folder / "reverie.toml").write_text('[cluster]\naddress = "10.0.0.1"\n')
    [problem] = errors(reverie_here("check", XDG_STATE_HOME=str(folder)))
    assert problem.startswith("reverie.toml: cluster.token_file: ")
    assert "reverie cluster token" in problem


def test_where_traces_go_is_said_without_its_secrets(folder: Path) -> None:
    write(folder, '[traces]\nendpoint = "https://otlp.example.org"\nheaders_env = "OURS"\n')
    done = reverie_here("check", OURS="Authorization=Bearer%20planted")
    assert "Traces: sent to https://otlp.example.org/v1/traces" in done.stdout
    assert "planted" not in done.stdout + done.stderr
    [mistake] = errors(reverie_here("check"))
    assert mistake == "traces.headers_env: the environment variable OURS is not set"
