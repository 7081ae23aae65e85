"""A real Prometheus on the files of deploy/prometheus, and what tests ask of it."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.ports import free_port

T = TypeVar("T")

SHIPPED = Path(__file__).parents[2] / "deploy" / "prometheus"
PATIENCE = 60.0


def configure(folder: Path, target: str, key: str) -> Path:
    """The shipped configuration for one gateway, in a hurry: no alert waits before it fires."""
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (folder / "key").write_text(key)
    (scrape,) = config["scrape_configs"]
    scrape["authorization"]["credentials_file"] = str(folder / "key")
    scrape["static_configs"] = [{"targets": [target]}]
    for name in config["rule_files"]:
        at_once = re.sub(r"^ +for: .*\n", "", (SHIPPED / name).read_text(), flags=re.MULTILINE)
        (folder / name).write_text(at_once)
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


class Prometheus:
    """A running one."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self._log = log

    def get(self, path: str, **query: str) -> Any:
        """What its API answers.

        Raises:
            AssertionError: it refused, and says why.
        """
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def firing(self) -> dict[str, dict[str, Any]]:
        """Alerts that fire, by their names."""
        alerts = self.get("alerts")["alerts"]
        return {one["labels"]["alertname"]: one for one in alerts if one["state"] == "firing"}

    def until(self, condition: Callable[[], T]) -> T:
        """Wait until it is true; gives what it gave."""
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, (self.firing().keys(), self._log.read_text())
            time.sleep(0.1)
        return value

    @property
    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                return True
        except OSError:
            return False


@contextmanager
def prometheus(folder: Path, target: str, key: str) -> Iterator[Prometheus]:
    """A Prometheus that scrapes ``target`` each second."""
    config = configure(folder, target, key)
    address = f"127.0.0.1:{free_port()}"
    log = folder / "prometheus.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
                "--log.level=warn",
            ],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        running = Prometheus(process, f"http://{address}", log)
        deadline = time.monotonic() + PATIENCE
        while not running.ready:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield running
    finally:
        process.kill()
        process.wait()
