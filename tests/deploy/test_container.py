"""The image: built from its file, and run as it will be, with no right that it can do without."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from reverie.models.store import fetch
from reverie.testing import Script, ThreadedEngine
from tests.deploy.image import PATIENCE, REVISION, ROOT, Container, Image, built
from tests.ports import free_port
from tests.postgres import Postgres

pytestmark = [pytest.mark.real, pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(900)]

FOLDER = ROOT / "deploy" / "container"
KEY = "a-key-that-is-only-for-this-test"


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with built() as image:
        yield image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder


class Served:
    """A container that serves, as its clients see it."""

    def __init__(self, container: Container, port: int, key: str = KEY) -> None:
        self.container = container
        self._url = f"http://127.0.0.1:{port}"
        self._key = key

    def status(self, path: str, key: str | None = None) -> int:
        """Of an answer; 0 while nothing listens."""
        # What comes from another machine has such a header: without a key it is refused.
        headers = {"X-Forwarded-For": "192.0.2.1"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def until(self, path: str, status: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while (got := self.status(path)) != status:
            assert time.monotonic() < deadline, (got, self.container.output)
            assert self.container.process.poll() is None, self.container.output
            time.sleep(0.05)

    def ask(self, **more: Any) -> Any:
        """The open answer of ``/llm``."""
        body = {"messages": [{"role": "user", "content": "Say hello."}], **more}
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._url + "/llm", json.dumps(body).encode(), headers)
        return urllib.request.urlopen(request, timeout=PATIENCE)


def written(folder: Path, text: str) -> Path:
    """A folder with this ``reverie.toml``, to be mounted."""
    config = folder / "config"
    config.mkdir(exist_ok=True)
    (config / "reverie.toml").write_text(text)
    return config


def scripted(engine: ThreadedEngine) -> str:
    return f'[[models]]\nname = "m"\ndefault = true\n[[models.backends]]\nurl = "{engine.url}"\n'


def test_it_says_how_it_is_run_and_holds_no_secret(image: Image) -> None:
    config = image.config
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["reverie"]
    assert config["Cmd"] == ["serve"]
    assert config["StopSignal"] == "SIGTERM"
    assert set(config["Volumes"]) == {"/data"}
    assert set(config["ExposedPorts"]) == {"8000/tcp"}
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    names = {variable.partition("=")[0] for variable in config["Env"]}
    assert not [name for name in names if re.search("KEY|TOKEN|SECRET|PASS|PIP_|PROXY", name)]


def test_its_user_can_change_nothing_but_the_data(image: Image) -> None:
    user, _ = map(int, image.config["User"].split(":"))
    for path in image.root.rglob("*"):
        about = path.lstat()
        is_data = path == image.root / "data"
        if is_data or not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
            continue
        shared = about.st_mode & stat.S_ISVTX  # /tmp, which is mounted anew
        assert about.st_uid != user, path
        assert shared or not about.st_mode & stat.S_IWOTH, path
        assert not (path.is_relative_to(image.root / "opt") and about.st_mode & stat.S_ISUID), path


def test_it_holds_what_runs_and_nothing_else(image: Image) -> None:
    [packages] = (image.root / "opt" / "reverie" / "lib").glob("python3*/site-packages")
    assert (packages / "reverie" / "http" / "page" / "assets").is_dir()
    for unwanted in ("pytest", "ray", "mypy", "setuptools", "reverie/tests"):
        assert not (packages / unwanted).exists(), unwanted
    for left in ("build", "program", "root/.cache", "etc/pip.conf", "var/lib/apt/lists/*"):
        assert not list(image.root.glob(left)), left
    own = image.size - image.base_size
    assert own < 200e6, f"{own / 1e6:.0f} MB beside the base"


def test_it_was_compiled_in_a_way_that_outlives_new_dates(image: Image) -> None:
    [packages] = (image.root / "opt" / "reverie" / "lib").glob("python3*/site-packages")
    for module in ("reverie/app.py", "uvicorn/server.py"):
        source = packages / module
        [compiled] = (source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")
        flags = int.from_bytes(compiled.read_bytes()[4:8], "little")
        assert flags == 0b01, module  # by its hash, which is never looked up


def test_it_serves_with_no_right_and_ends_when_told(
    image: Image, tmp_path: Path, data: Path
) -> None:
    model = fetch("smollm2-135m")
    port = free_port()
    tokens = [f"t{number} " for number in range(40)]
    with ThreadedEngine(Script(tokens=tokens, delay=0.05)) as engine:
        own = f'[[models]]\nname = "own"\nsource = "/models/{model.name}"\n'
        container = Container(
            image,
            tmp_path,
            data=data,
            environ={"REVERIE_API_KEYS": KEY, "REVERIE_PORT": str(port)},
            mounts={
                "/models": model.parent,
                "/etc/reverie": written(tmp_path, scripted(engine) + own),
            },
        )
        with container:
            served = Served(container, port)
            served.until("/readyz", 200)
            container.wait_for("engine ready")
            with served.ask(model="own", max_tokens=4) as answer:
                assert json.load(answer)["usage"]["completion_tokens"] == 4
            assert container.execute(*image.config["Healthcheck"]["Test"][1:]).returncode == 0
            assert REVISION in container.execute("reverie", "--version").stdout

            user, group = image.config["User"].split(":")
            assert len(container.pids) >= 3  # process 1, the server, its engine
            for pid in container.pids:
                about = Path(f"/proc/{pid}/status").read_text()
                assert re.search(rf"^Uid:\t{user}\t{user}\t{user}\t{user}$", about, re.M), about
                assert re.search(rf"^Gid:\t{group}\t{group}\t{group}\t{group}$", about, re.M), about
                assert re.search(r"^CapEff:\t0+$", about, re.M), about
                assert re.search(r"^CapBnd:\t0+$", about, re.M), about
                assert re.search(r"^NoNewPrivs:\t1$", about, re.M), about

            with served.ask(stream=True) as answer:
                first = answer.readline()
                container.send_stop_signal()
                container.wait_for("draining")
                assert served.status("/readyz") == 503
                assert served.status("/healthz") == 200
                rest = answer.read()
            assert b'"t0 "' in first
            assert rest.endswith(b"data: [DONE]\n\n")
            assert b'"t39 "' in rest
            assert container.process.wait(PATIENCE) == 0
            assert "cutting" not in container.output


def test_keys_stay_in_the_volume(image: Image, tmp_path: Path, data: Path) -> None:
    port = free_port()
    with ThreadedEngine() as engine:
        mounts = {"/etc/reverie": written(tmp_path, scripted(engine))}
        environ = {"REVERIE_API_KEYS": KEY, "REVERIE_PORT": str(port)}
        with Container(image, tmp_path, data=data, environ=environ, mounts=mounts) as container:
            Served(container, port).until("/readyz", 200)
            made = container.execute("reverie", "keys", "create", "--name", "alice")
            assert made.returncode == 0, made.stderr
            key = made.stdout.split()[-1]
            container.send_stop_signal()
            assert container.process.wait(PATIENCE) == 0
        del environ["REVERIE_API_KEYS"]
        with Container(image, tmp_path, data=data, environ=environ, mounts=mounts) as container:
            served = Served(container, port, key)
            served.until("/readyz", 200)
            with served.ask() as answer:
                assert json.load(answer)["choices"][0]["message"]["content"] == "Hello world"


def test_without_a_key_it_says_what_to_do(image: Image, tmp_path: Path, data: Path) -> None:
    with ThreadedEngine() as engine:
        mounts = {"/etc/reverie": written(tmp_path, scripted(engine))}
        with Container(image, tmp_path, data=data, mounts=mounts) as container:
            assert container.process.wait(PATIENCE) == 1
    assert "REVERIE_API_KEYS" in container.output
    assert "Traceback" not in container.output


def test_the_compose_files_reverie_reaches_postgresql_with_the_password_in_a_file(
    image: Image, tmp_path: Path, data: Path
) -> None:
    shutil.copy(FOLDER / "make-secrets.sh", tmp_path)
    made = subprocess.run(
        [tmp_path / "make-secrets.sh"], capture_output=True, text=True, check=True
    )
    secrets = tmp_path / "secrets"
    service = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["reverie"]
    port = free_port()
    with postgres_with_password((secrets / "postgres_password").read_text()) as url:
        container = Container(
            image,
            tmp_path,
            *service["command"],
            data=data,
            environ={"REVERIE_PORT": str(port), "REVERIE_STORE_URL": url},
            mounts={
                "/etc/reverie": FOLDER / "config",
                "/data/models": fetch("smollm2-135m").parent,
                **{f"/run/secrets/{name}": secrets / name for name in service["secrets"]},
            },
            entrypoint=[word.replace("$$", "$") for word in service["entrypoint"]],
        )
        with container:
            served = Served(container, port, key=made.stdout.split()[-1])
            served.until("/readyz", 200)
            with served.ask(max_tokens=4) as answer:
                assert json.load(answer)["usage"]["completion_tokens"] == 4
            assert served.status("/metrics", key="wrong") == 401
            assert served.status("/metrics", key=(secrets / "metrics_key").read_text()) == 200
            container.send_stop_signal()
            assert container.process.wait(PATIENCE) == 0
        with psycopg.connect(url.replace("reverie@", "postgres@")) as connection:
            rows = connection.execute("SELECT count(*) FROM ledger").fetchone()
        assert rows == (1,)
    password = (secrets / "postgres_password").read_text()
    assert password not in container.output


@contextmanager
def postgres_with_password(password: str) -> Iterator[str]:
    """The URL of a database that asks the role ``reverie`` for its password, over TCP."""
    port = str(free_port())
    with Postgres({"listen_addresses": "127.0.0.1", "port": port}) as server:
        (server.directory / "data" / "pg_hba.conf").write_text(
            "local all all trust\n"
            "host all postgres 127.0.0.1/32 trust\n"
            "host all all 127.0.0.1/32 scram-sha-256\n"
        )
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(f"CREATE ROLE reverie LOGIN PASSWORD '{password}'".encode())
            connection.execute(b"CREATE DATABASE reverie OWNER reverie")
        yield f"postgresql://reverie@127.0.0.1:{port}/reverie"
