"""The PostgreSQL that the tests run against does what they rely on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from tests.postgres import Postgres

_ROOT = Path(__file__).parents[3]


def _ask(url: str, statement: str) -> object:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        return connection.execute(sqlalchemy.text(statement)).scalar()


def _do(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [1, 2])
def test_a_database_is_empty_and_gone_after_its_test(postgres_database: str, number: int) -> None:
    _do(postgres_database, "CREATE TABLE t (a INT)")
    assert _ask(postgres_database, "SELECT count(*) FROM t") == 0
    own = _ask(postgres_database, "SELECT current_database()")
    tests = "SELECT string_agg(datname, ',') FROM pg_database WHERE datname LIKE 'test%'"
    assert _ask(postgres_database, tests) == own


def test_a_hundred_and_fifty_can_be_connected_at_once(postgres_database: str) -> None:
    connections = [psycopg.connect(postgres_database) for _ in range(150)]
    for connection in connections:
        connection.close()


def test_what_was_committed_survives_a_stop_and_the_rest_does_not(own_postgres: Postgres) -> None:
    _do(own_postgres.url, "CREATE TABLE t (a INT)")
    with psycopg.connect(own_postgres.url) as open_one:
        open_one.execute("INSERT INTO t VALUES (1)")
        own_postgres.stop()
        with pytest.raises(psycopg.OperationalError):
            open_one.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(own_postgres.url)
    own_postgres.start()
    assert _ask(own_postgres.url, "SELECT count(*) FROM t") == 0


def test_a_paused_server_answers_only_once_it_runs_again(own_postgres: Postgres) -> None:
    with psycopg.connect(own_postgres.url) as connection, ThreadPoolExecutor() as pool:
        own_postgres.pause()
        answer = pool.submit(connection.execute, "SELECT 1")
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(own_postgres.url, connect_timeout=2)
        is_answered = answer.done()
        own_postgres.resume()
        assert not is_answered
        assert answer.result(10).fetchone() == (1,)


def test_a_paused_server_can_be_stopped(own_postgres: Postgres) -> None:
    own_postgres.pause()
    own_postgres.stop()
    own_postgres.start()
    assert _ask(own_postgres.url, "SELECT 1") == 1


@pytest.mark.parametrize("own_postgres", [{"fsync": "on"}], indirect=True)
def test_a_test_can_ask_for_settings(own_postgres: Postgres) -> None:
    assert _ask(own_postgres.url, "SHOW fsync") == "on"


_KILLED = """
import sys
from tests.postgres import Postgres
with Postgres() as server:
    print(server.pid, server.directory, flush=True)
    sys.stdin.read()
"""


@pytest.mark.integration
def test_nothing_is_left_of_a_server_whose_tests_were_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as tests:
        assert tests.stdout is not None
        pid, directory = tests.stdout.readline().decode().split()
        assert Path(directory).exists()
        tests.kill()
    _wait_until(lambda: not Path(directory).exists() and not _is_alive(int(pid)))
