"""The rules, the alerts and the dashboard of deploy/, in a real Prometheus over a real gateway."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reverie.gateway.metric_names import TABLE
from reverie.testing import Script, ThreadedEngine
from tests.cli.test_serve import Serving, serving
from tests.deploy.prometheus import SHIPPED, Prometheus, configure, prometheus

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
RULES, ALERTS = "reverie.rules.yml", "reverie.alerts.yml"
UNIT_TESTS = Path(__file__).with_name("rules_test.yml")
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "reverie.json").read_text())
PAGES = [ROOT / "docs" / name for name in ("metrics.md", "monitoring.md", "operations.md")]
KEY = "a-key-for-tests-of-24-letters"
LEAST = 5
"""Failures with which every alert on errors is sure to fire."""


def rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((SHIPPED / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """The panels that show something, each with its row."""
    row = ""
    for panel in DASHBOARD["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        else:
            yield row, panel


def queries() -> list[tuple[str, str, str]]:
    """The dashboard's queries as Grafana would send them, each with its row and its panel."""
    found = []
    for row, panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in (
                ("$__rate_interval", "30s"),
                ("$__range", "1h"),
                ("$instance", ".*"),
                ("$model", ".*"),
                ("$job", ".*"),
            ):
                expression = expression.replace(variable, value)
            assert "$" not in expression, expression
            found.append((row, panel["title"], expression))
    return found


# What needs no server -----------------------------------------------------------------------


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_and_the_rules_are_prometheuses(tmp_path: Path) -> None:
    promtool("check", "config", "--syntax-only", str(SHIPPED / "prometheus.yml"))
    promtool("check", "config", str(configure(tmp_path, "127.0.0.1:8000", KEY)))
    promtool("check", "rules", str(SHIPPED / RULES), str(SHIPPED / ALERTS))


def test_alerts_fire_when_they_should_and_no_other_does() -> None:
    promtool("test", "rules", str(UNIT_TESTS))
    tested = set(re.findall(r'alertname="(\w+)"', UNIT_TESTS.read_text()))
    assert tested == {rule["alert"] for rule in rules(ALERTS)}


@pytest.mark.parametrize("rule", rules(ALERTS), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do_and_where_that_is_described(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    about = rule["annotations"]
    assert about["summary"]
    assert about["description"].endswith(".")
    page, _, section = about["runbook"].partition("#")
    assert section == rule["alert"].lower()
    headings = re.findall(r"^### (\w+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert rule["alert"] in headings


def test_every_name_that_is_used_is_one_of_the_codes() -> None:
    recorded = {rule["record"] for rule in rules(RULES)}
    known = set(recorded)
    for metric in TABLE.values():
        endings = ("_bucket", "_sum", "_count", "") if metric.kind == "histogram" else ("",)
        known |= {metric.name + ending for ending in endings}
    annotations = [one["expr"] for one in DASHBOARD["annotations"]["list"] if "expr" in one]
    variables = [
        one["definition"] for one in DASHBOARD["templating"]["list"] if "definition" in one
    ]
    asked = [expression for _, _, expression in queries()] + annotations + variables
    asked += [rule["expr"] for rule in (*rules(RULES), *rules(ALERTS))]
    said = [word for page in PAGES for word in re.findall(r"`([^`\n]+)`", page.read_text())]
    pattern = r"(?:\w+:)?\b(?:reverie|process|gen_ai_server)_\w+(?::\w+)?"
    used = {name for text in (*asked, *said) for name in re.findall(pattern, text)}
    assert "reverie_requests_total" in used
    assert recorded & used
    assert {name for name in used if not name.endswith("_")} <= known


def test_the_dashboard_is_whole() -> None:
    shown = [panel for _, panel in panels()]
    assert DASHBOARD["schemaVersion"] >= 41
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in shown}) == len(shown)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in shown:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] != "timeseries"
        for source in (panel, *panel["targets"]):
            assert source["datasource"]["uid"] == "${datasource}"
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == [
        "datasource", "job", "instance", "model",
    ]  # fmt: skip


# What a real one says -----------------------------------------------------------------------


class Scene:
    """A gateway in front of two engines, under a Prometheus."""

    def __init__(
        self, folder: Path, engines: list[ThreadedEngine], gateway: Serving, prometheus: Prometheus
    ) -> None:
        self.folder = folder
        self.engines = engines
        self.gateway = gateway
        self.prometheus = prometheus

    def ask(self, **more: Any) -> int:
        """The status of an answer."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        if key := more.pop("once", None):
            headers["Idempotency-Key"] = key
        body = {"messages": [{"role": "user", "content": "Hi"}], **more}
        request = urllib.request.Request(
            f"{self.gateway.url}/llm", json.dumps(body).encode(), headers
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                response.read()
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def play(self, **script: Any) -> None:
        for engine in self.engines:
            engine.script = Script(tokens=("Hello", " world"), cached_tokens=4, **script)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("monitored")
    with ThreadedEngine() as one, ThreadedEngine() as other:
        backends = "".join(
            f'[[models.backends]]\nurl = "{engine.url}"\nslots = 4\n' for engine in (one, other)
        )
        (folder / "reverie.toml").write_text(
            f'[store]\nurl = "sqlite:///{folder}/reverie.db"\ntimeout = 1\n'
            f'[[models]]\nname = "m"\nprice = {{ input = "1USD", output = "2USD" }}\n{backends}'
        )
        keyed = {"REVERIE_API_KEYS": KEY}
        with serving(folder, start_new_session=True, environ=keyed) as gateway:
            target = gateway.url.removeprefix("http://")
            with prometheus(folder, target, KEY) as running:
                # An increase is seen of what was scraped before it.
                running.until(lambda: running.query("reverie_requests_total"))
                yield Scene(folder, [one, other], gateway, running)


def test_every_query_of_the_dashboard_and_every_rule_finds_what_it_asks_for(scene: Scene) -> None:
    asked = queries()
    answered: set[str] = set()
    scene.play()

    def all_answered() -> bool:
        """True once each has had an answer while there is traffic."""
        assert [scene.ask(), scene.ask(stream=True), scene.ask(once="same")] == [200] * 3
        for row, _, expression in asked:
            if expression not in answered and scene.prometheus.query(expression):
                assert row != "Cluster"
                answered.add(expression)
        return all(row == "Cluster" or expression in answered for row, _, expression in asked)

    assert scene.ask(temperature=9) == 422
    scene.prometheus.until(all_answered)
    for rule in (*rules(RULES), *rules(ALERTS)):
        scene.prometheus.query(rule["expr"])
    for annotation in DASHBOARD["annotations"]["list"]:
        if "expr" in annotation:
            scene.prometheus.query(
                annotation["expr"].replace("$instance", ".*").replace("$job", ".*")
            )
    for rule in rules(RULES):
        assert scene.prometheus.until(lambda name=rule["record"]: scene.prometheus.query(name))
    for group in scene.prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            assert (rule["health"], rule.get("lastError")) == ("ok", None), rule["name"]
    # How full this machine's disk is isn't the gateway's doing.
    assert set(scene.prometheus.firing()) <= {"ReverieDiskFills"}


def test_an_outage_makes_the_right_alerts_fire(scene: Scene) -> None:
    running = scene.prometheus
    scene.play()
    assert scene.ask() == 200

    for engine in scene.engines:
        engine.kill()
    assert all(scene.ask() in (502, 503) for _ in range(LEAST))
    expected = {"ReverieModelDown", "ReverieBackendOut", "ReverieErrorsHigh"}
    running.until(lambda: expected <= set(running.firing()))
    for name in expected:
        said = running.firing()[name]["annotations"]
        assert re.search(r"\bm\b", said["summary"]), said
        assert "error" not in said["summary"]
    assert "ReverieStoreDown" not in running.firing()
    for engine in scene.engines:
        engine.restart()
    running.until(lambda: "ReverieModelDown" not in running.firing())

    # A stream that runs while the store goes is settled in the journal.
    running.until(lambda: scene.ask() == 200)
    scene.play(stall_after=1)
    stream = threading.Thread(target=lambda: scene.ask(stream=True))
    stream.start()
    running.until(lambda: any(engine.stalled for engine in scene.engines))
    with contextlib.closing(sqlite3.connect(scene.folder / "reverie.db")) as hog:
        hog.execute("BEGIN EXCLUSIVE")
        running.until(lambda: "ReverieStoreDown" in running.firing())
        for engine in scene.engines:
            engine.resume()
        stream.join()
        running.until(lambda: "ReverieJournalGrows" in running.firing())
        assert scene.ask() == 503
    running.until(lambda: "ReverieStoreDown" not in running.firing())

    scene.gateway.process.kill()
    running.until(lambda: "ReverieDown" in running.firing())
    assert "127.0.0.1" in running.firing()["ReverieDown"]["annotations"]["summary"]
