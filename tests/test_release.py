"""``make release``: what is published can be checked, and installs as it was."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import reverie
from scripts import release

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


class Released(NamedTuple):
    folder: Path
    bin: Path
    """Of the environment that the release was installed into, by its hashes."""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    folder, scratch = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("scratch")
    release.release(folder, scratch)
    return Released(folder, scratch / "installed" / "bin")


def test_each_file_has_its_hash(released: Released) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=released.folder, check=False
    )
    assert done.returncode == 0
    sums = (released.folder / "SHA256SUMS").read_text().splitlines()
    listed = {line.split("  ")[1] for line in sums}
    assert listed == {file.name for file in released.folder.iterdir()} - {"SHA256SUMS"}
    version = reverie.__version__
    kinds = (f"-{version}.tar.gz", f"-{version}-py3-none-any.whl", f"-{version}.cdx.json")
    assert listed == {"requirements.txt", *(f"reverie{kind}" for kind in kinds)}


def test_what_is_installed_by_hashes_runs(released: Released) -> None:
    command = [str(released.bin / "reverie"), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"reverie {reverie.__version__}\n")
    assert f"xllamacpp {metadata.version('xllamacpp')}\n" in said


def test_a_wheel_that_was_changed_is_refused(released: Released, tmp_path: Path) -> None:
    wheel = next(released.folder.glob("*.whl"))
    (tmp_path / wheel.name).write_bytes(wheel.read_bytes() + b"\0")
    own = (released.folder / "requirements.txt").read_text().split("\n")[1:3]
    (tmp_path / "requirements.txt").write_text("\n".join(own))
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--require-hashes"]
    done = subprocess.run(
        [*pip, "-r", "requirements.txt"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_the_requirements_name_no_host_and_hash_every_platform_s_files(released: Released) -> None:
    text = (released.folder / "requirements.txt").read_text()
    assert "://" not in text
    found = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))
    assert found["xllamacpp"] == metadata.version("xllamacpp")
    uvloop = re.search(r"^uvloop==.*?(?=^[a-z])", text, re.MULTILINE | re.DOTALL)
    assert uvloop is not None
    assert uvloop[0].count("--hash=sha256:") > 10


def test_the_bill_lists_what_is_installed(released: Released) -> None:
    text = next(released.folder.glob("*.cdx.json")).read_text()
    bill = json.loads(text)
    of = bill["metadata"]["component"]
    assert (of["name"], of["version"]) == ("reverie", reverie.__version__)
    assert "file:" not in text
    assert str(released.bin.parent) not in text
    listed = {canonicalize_name(one["name"]): one["version"] for one in bill["components"]}
    site = next((released.bin.parent / "lib").glob("python*/site-packages"))
    installed = {
        canonicalize_name(one.name): one.version
        for one in metadata.distributions(path=[str(site)])
        if one.name != "reverie"
    }
    assert listed == installed
    for one in tomllib.loads((release.ROOT / "pyproject.toml").read_text())["project"][
        "dependencies"
    ]:
        needed = Requirement(one)
        if needed.marker is None or needed.marker.evaluate():
            assert canonicalize_name(needed.name) in listed
