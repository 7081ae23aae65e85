"""Each way in which a database fails has a sentence of its own, with what to do, and no secret."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from reverie.errors import StoreFailure
from reverie.settings import StoreSettings
from reverie.store.database.engine import Store
from reverie.store.database.failures import reason_of
from reverie.store.database.migrate import migrate
from tests.postgres import Postgres

PASSWORD = "hunter2-is-secret"


def failure(url: str) -> str:
    """What an operator reads who starts with this store."""
    store = Store(StoreSettings(url=url, timeout=1.0))
    try:
        with pytest.raises(StoreFailure) as caught:
            migrate(store)
    finally:
        store.close()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert PASSWORD not in sentence
    return sentence


# SQLite -------------------------------------------------------------------------------------


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert failure(f"sqlite:///{tmp_path}") == f"{tmp_path} is a folder; name a file in it"


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("a shopping list, long enough to be read as a database" * 50)
    assert failure(f"sqlite:///{file}") == f"{file} is not a SQLite database; name another file"


def test_a_link_into_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    file.symlink_to(tmp_path / "gone" / "store.db")
    assert failure(f"sqlite:///{file}").startswith(f"{file} can't be opened: ")


def test_a_folder_that_takes_no_file_is_named() -> None:
    assert failure("sqlite:////proc/store.db") == (
        "/proc/store.db can't be opened: give this user the right to read and write it and its "
        "folder"
    )


def test_a_file_whose_folder_went_away_is_named(tmp_path: Path) -> None:
    store = Store(StoreSettings(url=f"sqlite:///{tmp_path}/folder/store.db"))
    (tmp_path / "folder").rmdir()
    with pytest.raises(StoreFailure, match=r"/folder/store\.db can't be opened: its folder is mis"):
        with store.read():
            pass
    store.close()


def test_a_file_that_may_only_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    sqlite3.connect(file).close()
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute("CREATE TABLE t (n)")
    sentence = reason_of(caught.value, file)
    assert sentence == f"{file} can't be written: give this user the right to write it"


def test_a_disk_that_is_full_is_named(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute("CREATE TABLE t AS SELECT randomblob(100000) AS b")
    assert reason_of(caught.value, file) == f"{file} can't grow: its disk is full; free some space"


def test_a_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE t AS SELECT randomblob(100000) AS b")
        connection.commit()
    data = bytearray(file.read_bytes())
    data[100:4096] = b"\xff" * 3996
    file.write_bytes(data)
    assert failure(f"sqlite:///{file}") == f"{file} is damaged; restore it from a backup"


# PostgreSQL ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def port() -> int:
    return unused_port()


@pytest.fixture(scope="module")
def server(port: int) -> Iterator[Postgres]:
    """One that asks for a password over TCP, and wants TLS for the database ``secure``."""
    with Postgres({"listen_addresses": "127.0.0.1", "port": str(port)}) as running:
        with psycopg.connect(running.url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'".encode())
            connection.execute("CREATE ROLE retired NOLOGIN")
            connection.execute("CREATE DATABASE secure")
            connection.execute("CREATE DATABASE full_house CONNECTION LIMIT 0")
            connection.execute("CREATE DATABASE closed")
            connection.execute("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
            rules = running.directory / "data" / "pg_hba.conf"
            rules.write_text(
                "local all all trust\n"
                "host postgres guest 127.0.0.1/32 scram-sha-256\n"
                "hostssl secure all 127.0.0.1/32 trust\n"
            )
            connection.execute("SELECT pg_reload_conf()")
        yield running


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("guest:wrong@127.0.0.1:{port}/postgres", "its user's password is wrong or missing"),
        ("guest@127.0.0.1:{port}/postgres", "its user's password is wrong or missing"),
        ("postgres@/password_authentication?{socket}", "there is no such database; make it: cr"),
        ("nobody_here@/postgres?{socket}", "there is no such user; make it: createuser"),
        ("retired@/postgres?{socket}", "its user may not log in; run ALTER ROLE NAME LOGIN"),
        ("guest@/closed?{socket}", "its user may not use that database; GRANT CONNECT to it"),
        ("guest@/full_house?{socket}", "it has too many connections; raise max_connections"),
        ("guest:{password}@127.0.0.1:{port}/secure", "it refuses this user or machine without TLS"),
        ("guest:{password}@127.0.0.1:{port}/postgres?sslmode=require", "it has no TLS, as sslmode"),
        ("guest:{password}@127.0.0.1:{port}/postgres", "its user may not do that; run GRANT"),
        ("guest:{password}@127.0.0.1:{port}/postgres?foo=1", "store.url has an option that Postgr"),
    ],
)
def test_what_a_server_refuses_is_told(
    server: Postgres, port: int, place: str, sentence: str
) -> None:
    where = f"host={server.directory}&port={port}"
    filled = place.format(port=port, socket=where, password=PASSWORD)
    assert failure(f"postgresql://{filled}").startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('FATAL:  Peer authentication failed for user "x"', "this program's user may not log in"),
        ('FATAL:  certificate authentication failed for user "x"', "it doesn't take the client's"),
        ("FATAL:  connection requires a valid client certificate", "it wants a client's certif"),
        ('could not read certificate file "x": no such file', "it wants a client's certificate"),
        ('could not read root certificate file "x"', "the file of sslrootcert in store.url"),
        ("SSL error: certificate verify failed", "its TLS certificate isn't trusted"),
        ("FATAL:  pg_hba.conf rejects connection for host", "it refuses this user or machine;"),
        ("Connection timed out", "it doesn't answer in time"),
        ("no answer within 5 s", "it hangs: it doesn't answer within store.timeout"),
        ("FATAL:  the database system is starting up", "it is starting up or shutting down"),
        ("FATAL:  sorry, too many clients already", "it has too many connections"),
    ],
)
def test_what_a_server_says_is_told_in_our_words(text: str, sentence: str) -> None:
    """Each is libpq's or the server's English text."""
    assert reason_of(psycopg.OperationalError(text), None).startswith(sentence)


@pytest.mark.integration
def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    login = f"postgresql://guest:{PASSWORD}"
    at = f"{login}@127.0.0.1:{unused_port()}/postgres"
    assert failure(at) == "nobody listens there; start PostgreSQL, or check host and port"
    assert failure(f"{login}@/postgres?host={tmp_path}").startswith("nobody listens on that socket")
    assert failure(f"{login}@no.such.host.invalid/postgres").startswith("its host is unknown")


@pytest.mark.integration
def test_another_kind_of_server_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        url = f"postgresql://guest:{PASSWORD}@127.0.0.1:{port}/postgres"
        assert failure(url) == "what listens there isn't PostgreSQL; check the port"
        thread.join(5)


@pytest.mark.integration
def test_a_server_that_says_nothing_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"postgresql://guest:{PASSWORD}@127.0.0.1:{listening.getsockname()[1]}/postgres"
        assert failure(url) == "it doesn't answer in time; check host, port and firewall"
