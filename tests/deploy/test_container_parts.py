"""The programs beside the Containerfile: the image's healthcheck, and what it is to install."""

from __future__ import annotations

import socket
import subprocess
import sys
import tomllib
from typing import Any
from urllib.parse import urlsplit

import pytest

from reverie.testing import ThreadedEngine
from tests.deploy.image import ROOT

pytestmark = pytest.mark.integration

FOLDER = ROOT / "deploy" / "container"


def test_all_that_the_wheel_is_built_from_is_given_to_the_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "custom" in project["tool"]["hatch"]["build"]["hooks"]
    needed = {"hatch_build.py", project["project"]["readme"], *project["project"]["license-files"]}
    copied = set()
    for line in (FOLDER / "Containerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert needed <= copied
    assert {f"!{name}" for name in needed} <= set((ROOT / ".dockerignore").read_text().split())


@pytest.mark.parametrize(("pages", "status"), [({"/healthz": {}}, 0), ({}, 1)])
def test_the_healthcheck_says_whether_the_process_answers(pages: Any, status: int) -> None:
    with ThreadedEngine(pages=pages) as engine:
        assert healthcheck(urlsplit(engine.url).port or 0) == status


def test_the_healthcheck_fails_where_nothing_listens() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        assert healthcheck(listener.getsockname()[1]) != 0


def healthcheck(port: int) -> int:
    return subprocess.run(
        [sys.executable, "-I", "-S", str(FOLDER / "healthcheck.py")],
        env={"REVERIE_PORT": str(port)},
        stderr=subprocess.DEVNULL,
        check=False,
    ).returncode


def requirements(extras: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / "requirements.py"), extras],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_images_requirements_are_the_projects_and_those_of_the_extras_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert requirements("").stdout.splitlines() == project["dependencies"]
    more = requirements("cluster,otel").stdout.splitlines()[len(project["dependencies"]) :]
    extras = project["optional-dependencies"]
    assert more == [*extras["cluster"], *extras["otel"]]


def test_an_extra_that_isnt_there_is_said_to_be_none() -> None:
    done = requirements("gpu")
    assert done.returncode == 1
    assert "EXTRAS: there is no extra 'gpu'" in done.stderr
