"""A supervised engine, as the gateway and the operator see it."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from reverie.background import FAILURES
from reverie.errors import ModelError
from reverie.runner import supervisor
from reverie.runner.supervisor import Runner
from reverie.runner.tuned import Tuned, conditions_of, keep
from reverie.settings import ModelSettings

RenameInModel = Callable[[str, str], Path]
StartRunner = Callable[..., Awaitable[Runner]]
Ask = Callable[..., Awaitable[tuple[int, Any]]]
MakeBinary = Callable[..., Path]
WaitGone = Callable[[int], Awaitable[None]]

READY = 60.0
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


async def test_answers_in_private_until_stopped(
    start_runner: StartRunner, ask: Ask, wait_gone: WaitGone, state_home: Path
) -> None:
    runner = await start_runner(context=600)
    assert runner.state == "loading"
    await runner.wait_ready(READY)
    assert (runner.state, runner.context, runner.failure) == ("ready", 600, None)

    status, answer = await ask(runner, "/v1/chat/completions", HELLO)
    assert status == 200
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["model"] == "m"

    directory, pid = runner.socket.parent, runner.pid
    assert pid is not None
    assert len(os.fsencode(runner.socket)) < 100
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(runner.log_path.stat().st_mode) == 0o600
    assert runner.log_path == state_home / "reverie/logs/m.log"

    await runner.stop()
    await wait_gone(pid)
    assert not directory.exists()
    assert (runner.state, runner.pid) == ("stopped", None)
    await runner.stop()


async def test_a_killed_engine_is_replaced(
    start_runner: StartRunner, ask: Ask, wait_gone: WaitGone
) -> None:
    runner = await start_runner()
    await runner.wait_ready(READY)
    first = runner.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await runner.changed()
    assert (runner.state, runner.pid, runner.failure) == ("restarting", None, None)

    await runner.wait_ready(READY)
    assert runner.pid not in (None, first)
    assert (await ask(runner, "/health"))[0] == 200
    await wait_gone(first)


async def test_an_engine_that_hangs_is_replaced(
    start_runner: StartRunner,
    ask: Ask,
    wait_gone: WaitGone,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("reverie.runner.supervisor._LIVENESS_INTERVAL", 0.05)
    monkeypatch.setattr("reverie.runner.process._GRACE", 0.1)
    runner = await start_runner()
    await runner.wait_ready(READY)
    first = runner.pid
    assert first is not None
    monkeypatch.setattr("reverie.runner.probe._TIMEOUT", 0.5)
    os.kill(first, signal.SIGSTOP)
    await runner.changed()
    assert runner.state == "restarting"

    monkeypatch.setattr("reverie.runner.probe._TIMEOUT", 5.0)
    await runner.wait_ready(READY)
    assert runner.pid not in (None, first)
    assert (await ask(runner, "/health"))[0] == 200
    await wait_gone(first)
    (died,) = [record for record in caplog.records if record.message == "engine died"]
    assert "hung" in died.fields["reason"]  # type: ignore[attr-defined]


async def test_an_engine_that_hangs_is_replaced_at_once_when_a_request_makes_no_progress(
    start_runner: StartRunner, wait_gone: WaitGone, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = await start_runner()
    await runner.wait_ready(READY)
    assert await runner.check_alive()  # one that lives is left alone
    first = runner.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    while not is_stopped(first):  # until then a thread of it may answer
        await asyncio.sleep(0.01)
    monkeypatch.setattr("reverie.runner.probe._TIMEOUT", 0.5)
    assert await asyncio.gather(*(runner.check_alive() for _ in range(3))) == [False] * 3

    monkeypatch.setattr("reverie.runner.probe._TIMEOUT", 5.0)
    await runner.wait_ready(READY)
    assert runner.pid not in (None, first)
    assert await runner.check_alive()
    await wait_gone(first)


def is_stopped(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)


async def test_an_engine_that_was_ready_once_is_always_tried_again(
    start_runner: StartRunner, make_binary: MakeBinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reverie.runner.supervisor._MAX_FAILURES", 1)
    program = make_binary()
    whole = program.read_text()
    runner = await start_runner(engine=str(program))
    await runner.wait_ready(READY)
    assert runner.pid is not None
    make_binary("import sys\nsys.exit(9)")
    os.kill(runner.pid, signal.SIGTERM)
    for _ in range(4):  # died, started, died, started
        await runner.changed()
        assert (runner.state, runner.failure) == ("restarting", None)
    make_binary(whole.partition("\n")[2])
    await runner.wait_ready(READY)


async def test_tells_its_owner_of_every_change(model: Path) -> None:
    runner = Runner("m", model, ModelSettings(name="m", source="m", kv_tokens=512, slots=1))
    seen: list[tuple[str, bool]] = []
    await runner.start(lambda: seen.append((runner.state, runner.pid is not None)))
    try:
        await runner.wait_ready(READY)
    finally:
        await runner.stop()
    assert seen == [
        ("loading", False),
        ("loading", True),
        ("ready", True),
        ("stopped", True),
        ("stopped", False),
    ]


async def test_stop_while_loading_leaves_nothing(
    start_runner: StartRunner, wait_gone: WaitGone
) -> None:
    runner = await start_runner()
    while runner.pid is None:
        await runner.changed()
    pid = runner.pid
    await runner.stop()
    await wait_gone(pid)
    assert not runner.socket.parent.exists()
    with pytest.raises(ModelError, match="isn't running"):
        await runner.wait_ready(1)


async def test_a_cancelled_start_leaves_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        runner = Runner("m", model, ModelSettings(name="m", source="file"))
        starting = asyncio.create_task(runner.start())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await runner.stop()
        assert os.listdir(temporary) == []


async def test_a_cancelled_stop_still_ends_the_engine(
    start_runner: StartRunner, make_binary: MakeBinary, wait_gone: WaitGone
) -> None:
    runner = await start_runner(engine=str(make_binary()))
    await runner.wait_ready(READY)
    assert runner.pid is not None
    pid = runner.pid
    stopping = asyncio.create_task(runner.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await wait_gone(pid)


_OWNER = """
import asyncio, sys
from pathlib import Path
from reverie.runner.supervisor import Runner
from reverie.settings import ModelSettings

async def main():
    settings = ModelSettings(name="m", source="m", kv_tokens=512, slots=1, engine=sys.argv[2])
    runner = Runner("m", Path(sys.argv[1]), settings)
    await runner.start()
    await runner.wait_ready(60)
    print(runner.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("engine", ["xllamacpp", "llama-server"])
async def test_a_killed_gateway_takes_its_engine_along(
    engine: str, model: Path, make_binary: MakeBinary, wait_gone: WaitGone
) -> None:
    program = str(make_binary()) if engine == "llama-server" else engine
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _OWNER, str(model), program), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    line = await owner.stdout.readline()
    owner.kill()
    await owner.communicate()
    await wait_gone(int(line))


async def _sentence(runner_started: Awaitable[Runner]) -> str:
    """What the operator is told about a model that can't be used."""
    with pytest.raises(ModelError) as caught:
        await (await runner_started).wait_ready(READY)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


async def test_a_missing_model_is_reported(start_runner: StartRunner, tmp_path: Path) -> None:
    assert "absent.gguf" in await _sentence(start_runner(tmp_path / "absent.gguf"))


async def test_a_foreign_file_is_reported(start_runner: StartRunner, tmp_path: Path) -> None:
    file = tmp_path / "picture.gguf"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(4096))
    assert "picture.gguf" in await _sentence(start_runner(file))


@pytest.mark.parametrize("size", [10, 5000, 60_000_000])
async def test_a_truncated_model_is_reported(
    size: int, start_runner: StartRunner, tmp_path: Path, model: Path
) -> None:
    file = tmp_path / "part.gguf"
    with model.open("rb") as whole:
        file.write_bytes(whole.read(size))
    assert "part.gguf" in await _sentence(start_runner(file))


async def test_a_damaged_model_fails_with_the_engines_reason(
    start_runner: StartRunner, rename_in_model: RenameInModel
) -> None:
    file = rename_in_model("output_norm.weight", "output_mron.weight")
    sentence = await _sentence(start_runner(file))
    assert sentence.startswith("The engine can't load changed.gguf: ")
    assert "output_norm.weight" in sentence
    assert str(file.parent) not in sentence


async def test_an_engine_that_ends_at_once_fails_with_its_last_lines(
    start_runner: StartRunner, make_binary: MakeBinary, caplog: pytest.LogCaptureFixture
) -> None:
    program = make_binary("import sys\nfor n in range(30): print('line', n)\nsys.exit(7)")
    runner = await start_runner(engine=str(program))
    with pytest.raises(ModelError, match="ended with status 7"):
        await runner.wait_ready(READY)
    assert runner.state == "failed"
    assert runner.log_tail == [f"line {n}" for n in range(10, 30)]
    assert "engine said: line 29" in caplog.text
    assert not runner.socket.parent.exists()


async def test_a_program_for_another_machine_fails_at_once(
    start_runner: StartRunner, tmp_path: Path
) -> None:
    program = tmp_path / "llama-server"
    program.write_bytes(b"\x7fELF of nowhere")
    program.chmod(0o700)
    runner = await start_runner(engine=str(program))
    with pytest.raises(ModelError, match="llama-server is not a program for this machine"):
        await runner.wait_ready(READY)


async def test_an_engine_that_is_not_there_is_reported(start_runner: StartRunner) -> None:
    with pytest.raises(ModelError, match="/nowhere/llama-server is neither 'xllamacpp' nor"):
        await start_runner(engine="/nowhere/llama-server")


async def test_a_log_that_cannot_be_written_is_reported(
    start_runner: StartRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    with pytest.raises(ModelError, match="can't be prepared: Not a directory: /dev/null"):
        await start_runner()


async def test_an_engine_that_hangs_while_loading_is_ended(
    start_runner: StartRunner, make_binary: MakeBinary, wait_gone: WaitGone
) -> None:
    program = make_binary("import time\ntime.sleep(600)")
    runner = await start_runner(engine=str(program), load_timeout=0.05)
    while runner.pid is None:
        await runner.changed()
    pid = runner.pid
    with pytest.raises(ModelError, match=r"did not become ready in 0.05 s"):
        await runner.wait_ready(READY)
    await wait_gone(pid)


async def test_an_engine_that_ignores_sigterm_is_killed(
    start_runner: StartRunner,
    make_binary: MakeBinary,
    wait_gone: WaitGone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reverie.runner.process._GRACE", 0.05)
    code = make_binary().read_text().partition("\n")[2]
    program = make_binary("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + code)
    runner = await start_runner(engine=str(program))
    await runner.wait_ready(READY)
    assert runner.pid is not None
    pid = runner.pid
    await runner.stop()
    await wait_gone(pid)


async def test_secrets_stay_in_the_gateway(
    start_runner: StartRunner, make_binary: MakeBinary, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REVERIE_API_KEYS", "HF_TOKEN", "BIG_KEY", "DATABASE_URL"):
        monkeypatch.setenv(name, "hidden-value")
    monkeypatch.setenv("OMP_PROC_BIND", "false")
    runner = await start_runner(engine=str(make_binary()))
    await runner.wait_ready(READY)
    _, seen = await ask(runner, "/")
    assert "hidden-value" not in seen["environ"].values()
    assert seen["environ"]["OMP_PROC_BIND"] == "false"
    assert "PATH" in seen["environ"]


async def test_a_llama_server_gets_the_same_configuration(
    start_runner: StartRunner, make_binary: MakeBinary, ask: Ask, model: Path
) -> None:
    runner = await start_runner(
        engine=str(make_binary()), slots=3, context=700, batch=64, threads=2, gpu_layers=5
    )
    await runner.wait_ready(READY)
    assert runner.context == 512  # what the engine says counts, not what it was told
    _, seen = await ask(runner, "/")
    argv = " ".join(seen["argv"])
    for flags in (
        *(f"--model {model}", f"--host {runner.socket}", "--alias m", "--parallel 3"),
        *("--ctx-size 2048", "--kv-unified", "--kv-unified-per-slot 700", "--cache-ram 0"),
        *("--batch-size 64", "--ubatch-size 64", "--threads 2", "--n-gpu-layers 5"),
        *("--metrics", "--slots", "--jinja", "--no-webui"),
    ):
        assert flags in argv
    assert f"--chat-template-file {runner.socket.parent}" in argv


async def test_two_engines_of_one_name_have_a_log_each_which_is_free_after_the_stop(
    start_runner: StartRunner, make_binary: MakeBinary
) -> None:
    engine = str(make_binary())
    first = await start_runner(engine=engine)
    second = await start_runner(engine=engine)
    assert [first.log_path.name, second.log_path.name] == ["m.log", "m-2.log"]
    await first.stop()
    assert (await start_runner(engine=engine)).log_path.name == "m.log"


async def test_a_log_that_can_not_be_trimmed_costs_no_engine(
    model: Path, start_runner: StartRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_LOG_CHECK_INTERVAL", 0.01)
    before = FAILURES["engine supervisor"]
    runner = await start_runner(model)
    await runner.wait_ready(READY)
    first = runner.pid
    monkeypatch.setattr(runner._log, "trim", lambda: 1 / 0)
    async with asyncio.timeout(READY):
        while FAILURES["engine supervisor"] < before + 3:
            await asyncio.sleep(0.01)
    assert (runner.state, runner.pid) == ("ready", first)


async def test_the_supervision_goes_on_after_a_failure_of_its_own(
    model: Path, start_runner: StartRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = await start_runner(model)
    await runner.wait_ready(READY)
    first, before = runner.pid, FAILURES["engine supervisor"]
    assert first is not None
    with monkeypatch.context() as broken:
        broken.setattr(runner, "_run", lambda: 1 / 0)
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(READY):
            while FAILURES["engine supervisor"] == before:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(READY):
        while runner.state != "ready" or runner.pid == first:
            await runner.changed()


async def test_an_engine_runs_as_it_was_measured_where_its_settings_leave_that_open(
    start_runner: StartRunner, make_binary: MakeBinary, ask: Ask, model: Path
) -> None:
    binary = str(make_binary())
    keep(conditions_of(model, binary), Tuned(threads=3, batch=48))

    async def flags(**settings: Any) -> str:
        runner = await start_runner(engine=binary, **settings)
        await runner.wait_ready(READY)
        return " ".join((await ask(runner, "/"))[1]["argv"])

    assert "--batch-size 48 --ubatch-size 48" in (as_measured := await flags())
    assert "--threads 3" in as_measured
    assert "--batch-size 16 --ubatch-size 16" in (as_written := await flags(threads=1, batch=16))
    assert "--threads 1" in as_written
