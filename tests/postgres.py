"""A real PostgreSQL for tests: one for all of them, and one for a test that stops it.

The servers are private: each has a directory of its own, which only its owner can enter, and
listens on a Unix socket in there. Nothing of them is left when the tests end, however they do.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import pytest

from tests import postgres_keeper

_DEADLINE = 60.0
"""Seconds that a server may take to start or to stop."""

_SETTINGS = {
    "port": "5432",  # only the name of the socket
    "listen_addresses": "",
    "max_connections": "200",
    # What is committed still survives that the server is killed, only not the machine's end.
    "fsync": "off",
    "full_page_writes": "off",
}

_INITDB_OPTIONS = (
    "--username=postgres",
    "--auth=trust",  # nobody else can enter the directory
    "--encoding=UTF8",
    "--locale=C",
    "--no-sync",
)

_numbers = itertools.count(1)


class Postgres:
    """A server and its directory, as a context manager; ``settings`` are those of PostgreSQL.

    Every method may be called from any thread, and blocks.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._settings = _SETTINGS | dict(settings or {})
        self._keeper: subprocess.Popen[bytes] | None = None
        self._paused: list[int] = []
        self._binaries = find_binaries()
        self.directory = _make_directory()

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Of a database that is empty as long as nobody has written to it."""
        return self.database_url("postgres")

    def database_url(self, name: str) -> str:
        """For SQLAlchemy and for libpq alike."""
        return f"postgresql://postgres@/{name}?host={self.directory}&port={self._settings['port']}"

    @property
    def pid(self) -> int:
        """The process that all the others of the server are children of."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        """Start it, on the same socket as before; gives back control when it answers."""
        assert self._keeper is None, "it is started already"
        settings = self._settings | {"unix_socket_directories": str(self.directory)}
        command = [str(self._binaries / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-S", postgres_keeper.__file__, str(self.directory), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # no Ctrl-C for it: the end of its input tells it
            )
        self._wait_ready(self._keeper)

    def stop(self) -> None:
        """Stop it at once, breaking every connection, as a crash does; committed data stays."""
        if self._keeper is None:
            return
        if self._keeper.poll() is None:  # else it ended by itself
            _send(self.pid, signal.SIGQUIT)
            self.resume()
        self._await_keeper()

    def pause(self) -> None:
        """Let it hang: connections stay, new ones can be made, and nothing is answered."""
        self._paused = [self.pid]
        os.kill(self.pid, signal.SIGSTOP)  # first, so that it makes no more processes
        while more := [pid for pid in _children(self.pid) if pid not in self._paused]:
            for pid in more:
                _send(pid, signal.SIGSTOP)
            self._paused += more

    def resume(self) -> None:
        """Go on after ``pause``."""
        while self._paused:
            _send(self._paused.pop(), signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its directory."""
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            self.resume()
            self._await_keeper()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _log(self) -> Path:
        return self.directory / "log"

    def _initialise(self) -> None:
        command = [str(self._binaries / "initdb"), "-D", str(self._data), *_INITDB_OPTIONS]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=postgres_keeper.environment(),
            check=False,
            **postgres_keeper.as_owner(self.directory),
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed: {done.stderr}")

    def _wait_ready(self, keeper: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _DEADLINE
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=10).close()
                return
            except psycopg.OperationalError as error:
                if keeper.poll() is not None or time.monotonic() > deadline:
                    log = self._log.read_text(errors="replace")
                    raise RuntimeError(f"PostgreSQL didn't start: {log[-2000:]}") from error
            time.sleep(0.02)

    def _await_keeper(self) -> None:
        assert self._keeper is not None
        with self._keeper as keeper:
            keeper.wait(_DEADLINE)
        self._keeper = None


def find_binaries() -> Path:
    """The folder of ``initdb`` and ``postgres``: on PATH, else Debian's newest."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(found, key=lambda file: int(file.parts[-3]), default=None)
    if newest is None:
        pytest.fail(
            "PostgreSQL isn't installed: run `make postgres`, or put the folder of its "
            "`initdb` on PATH",
            pytrace=False,
        )
    return newest.parent


def _make_directory() -> Path:
    # Not pytest's: only root may enter that, and the path of a socket must be short.
    directory = Path(tempfile.mkdtemp(prefix="reverie-postgres-", dir="/tmp"))
    if os.geteuid() == 0:
        owner = _unprivileged_user()
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    return directory


def _unprivileged_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")  # Debian's package makes it
    except KeyError:
        return pwd.getpwnam("nobody")


def _children(pid: int) -> list[int]:
    if sys.platform == "linux":
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    else:
        found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
    return [int(child) for child in found.split()]


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
        os.kill(pid, number)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a server that all tests share; see ``postgres_database`` for a place in it."""
    with Postgres() as server:
        yield server.url


@pytest.fixture
def postgres_database(postgres: str) -> Iterator[str]:
    """The URL of an empty database, which is gone after the test."""
    name = f"test_{next(_numbers)}"
    _execute(postgres, f"CREATE DATABASE {name}")
    yield postgres.replace("/postgres?", f"/{name}?")
    _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def own_postgres(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A server that the test may stop and pause. Takes settings from the test, indirectly:

    ``@pytest.mark.parametrize("own_postgres", [{"fsync": "on"}], indirect=True)``
    """
    with Postgres(getattr(request, "param", None)) as server:
        yield server


def _execute(url: str, statement: str) -> None:
    # Neither statement may be within a transaction.
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())
