from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from reverie.cli.cluster_view import empty, machine_of, print_view, put_back, shown
from reverie.cluster.messages import Engine, EngineInfo, Machine, ModelStatus, View
from reverie.errors import ClusterError, ConfigurationError
from tests.cli.command import errors, reverie, reverie_here

SECRET = "the-key-of-an-engine"


def engine(number: int, machine: str, *, leaving: bool = False) -> Engine:
    info = EngineInfo(f"uid-{number}", 1, "ready", "http://x/v1", SECRET, slots=8, context=4096)
    return Engine(f"m/{number}", "m", "digest", machine, info, leaving)


def view(*engines: Engine, draining: bool = False, complete: bool = True) -> View:
    return View(
        incarnation="i",
        version=1,
        complete=complete,
        engines=list(engines),
        ended=[],
        models=[ModelStatus("m", "digest", 1, 3, wanted=3, waiting=7, why="No room: 2 needed.")],
        machines=[
            Machine(
                "id-2", "10.0.0.2", True, draining, slots=2, memory=8 << 30, free_memory=3 << 30
            ),
            Machine("id-3", "10.0.0.3", True, slots=2, gpus=2, free_gpus=1),
        ],
        reverie="9.9",
    )


class Scripted:
    """A manager that gives these views one after the other, and the last again and again."""

    def __init__(self, *views: View) -> None:
        self.views = list(views)
        self.asked: list[tuple[str, bool]] = []

    async def overview(self) -> View:
        return self.views.pop(0) if len(self.views) > 1 else self.views[0]

    async def drain(self, machine: str, draining: bool) -> None:
        self.asked.append((machine, draining))


async def test_a_drain_tells_which_engines_are_left_until_none_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    both = view(engine(0, "10.0.0.2"), engine(1, "10.0.0.2"), engine(2, "10.0.0.3"))
    one = view(engine(1, "10.0.0.2", leaving=True), engine(2, "10.0.0.3"))
    manager = Scripted(both, both, both, one, view(engine(2, "10.0.0.3")))
    await empty(manager, "id-2", 60)
    assert manager.asked == [("10.0.0.2", True)]
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == "10.0.0.2 has 2 engines: m/0, m/1"
    assert second == "10.0.0.2 has 1 engine: m/1"
    assert "may be ended" in last
    assert "reverie cluster resume 10.0.0.2" in last


async def test_a_drain_that_takes_too_long_says_that_it_goes_on() -> None:
    manager = Scripted(view(engine(0, "10.0.0.2")))
    with pytest.raises(ClusterError, match=r"still has 1 engine after 0 s.*resume"):
        await empty(manager, "10.0.0.2", 0)


async def test_a_machine_is_put_back() -> None:
    manager = Scripted(view(draining=True))
    await put_back(manager, "10.0.0.2")
    assert manager.asked == [("10.0.0.2", False)]


async def test_of_a_machine_that_is_not_there_the_known_ones_are_named() -> None:
    manager = Scripted(view())
    with pytest.raises(ConfigurationError, match=r"no 10\.0\.0\.9 .*10\.0\.0\.2, 10\.0\.0\.3"):
        await empty(manager, "10.0.0.9", 1)
    assert manager.asked == []


async def test_a_machine_that_was_shut_down_is_put_back() -> None:
    manager = Scripted(view())
    await put_back(manager, "10.0.0.9")
    assert manager.asked == [("10.0.0.9", False)]


def test_a_machine_is_known_by_its_address_and_by_rays_id() -> None:
    assert machine_of(view(), "10.0.0.3") == machine_of(view(), "id-3")


def test_json_has_all_but_the_engines_keys() -> None:
    written = json.dumps(shown(view(engine(0, "10.0.0.2"))))
    assert SECRET not in written
    assert json.loads(written)["models"][0]["why"] == "No room: 2 needed."


def test_tables_say_who_has_what_and_who_lacks_what(capsys: pytest.CaptureFixture[str]) -> None:
    print_view(view(engine(0, "10.0.0.2", leaving=True), draining=True))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "10.0.0.2 draining 1/2 0/0 3.0/8.0 GiB" in lines
    assert "10.0.0.3 up 0/2 1/2 0.0/0.0 GiB" in lines
    assert "m 0 3 1-3 0 7 No room: 2 needed." in lines
    assert "m/0 10.0.0.2 leaving 8 4096 -" in lines
    assert SECRET not in " ".join(lines)


def test_a_manager_that_has_just_started_is_said_to_know_little(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_view(view(complete=False))
    assert "just started" in capsys.readouterr().out


# From the command line ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("REVERIE_CLUSTER_TOKEN", "0123456789abcdef")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_without_any_address_it_says_where_to_write_one() -> None:
    [problem] = errors(reverie_here("cluster", "status"))
    assert "[cluster] in reverie.toml" in problem


@pytest.mark.integration
def test_a_head_that_is_not_there_is_one_sentence(folder: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        (folder / "reverie.toml").write_text(f'[cluster]\naddress = "{address}"\n')
        [problem] = errors(reverie("cluster", "drain", "10.0.0.2"))
    assert f"The cluster at {address} can't be reached" in problem


def test_help_has_an_example_of_each() -> None:
    for verb in ("status", "drain", "resume"):
        assert f"Example: reverie cluster {verb}" in reverie_here("cluster", verb, "--help").stdout
