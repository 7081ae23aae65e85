"""What was built says of what, and is the same bytes wherever and whenever it is built."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from reverie import build

ROOT = Path(__file__).parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _forget_facts() -> None:
    build.facts.cache_clear()


def test_a_source_tree_knows_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "_FILE", tmp_path / "build.json")
    found = build.facts()
    assert (found.commit, found.date) == (None, None)
    assert found.python == ".".join(map(str, sys.version_info[:3]))


def test_what_was_built_knows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "build.json"
    file.write_text(json.dumps({"commit": COMMIT, "date": "2026-11-30T08:00:00Z"}))
    monkeypatch.setattr(build, "_FILE", file)
    assert build.facts()[1:3] == (COMMIT, "2026-11-30T08:00:00Z")


def test_an_engine_that_isn_t_installed_is_left_out() -> None:
    assert build._version_of("no-such-package") is None


def make(folder: Path, into: Path, *targets: str, umask: int = 0o022, **environ: str) -> None:
    """Build in a folder."""
    asked = [word for target in targets for word in ("-t", target)]
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", *asked, "-d", str(into)],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"} | environ,
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def hashes(folder: Path) -> dict[str, str]:
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in folder.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist and the wheel of this tree."""
    folder = tmp_path_factory.mktemp("built")
    make(ROOT, folder, "sdist", "wheel")
    return folder


@pytest.mark.integration
def test_other_folders_times_and_masks_give_the_same_bytes(built: Path, tmp_path: Path) -> None:
    found = []
    for name, umask, modified in (("one", 0o077, 1_000_000_000), ("other", 0o002, None)):
        with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
            archive.extractall(tmp_path / name, filter="data")
        [source] = (tmp_path / name).iterdir()
        for file in source.rglob("*"):
            os.utime(file, None if modified is None else (modified, modified))
        make(source, tmp_path / f"{name}-built", "sdist", "wheel", umask=umask)
        found.append(hashes(tmp_path / f"{name}-built"))
    assert len(found[0]) == 2
    assert found[0] == found[1] == hashes(built)


REPOSITORY = """
git init -q . && git add . && git -c user.name=n -c user.email=e commit -q -m one \
  --date 2026-11-30T08:00:00Z && git rev-parse HEAD
"""


def facts_of(wheel: Path) -> dict[str, str] | None:
    with zipfile.ZipFile(wheel) as archive:
        if "reverie/build.json" not in archive.namelist():
            return None
        found: dict[str, str] = json.loads(archive.read("reverie/build.json"))
        return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small source tree that is built as this one."""
    package = tmp_path / "tree" / "src" / "reverie"
    package.mkdir(parents=True)
    for name in ("hatch_build.py", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / "tree" / name).write_bytes((ROOT / name).read_bytes())
    (package / "__init__.py").write_text('__version__ = "0.1.0"\n')
    return tmp_path / "tree"


def wheel_of(tree: Path, **environ: str) -> Path:
    make(tree, tree.parent / "wheel", "wheel", **environ)
    [wheel] = (tree.parent / "wheel").iterdir()
    return wheel


@pytest.mark.integration
def test_a_wheel_knows_its_commit_and_whether_that_was_changed(tree: Path) -> None:
    environ = {**os.environ, "GIT_COMMITTER_DATE": "2026-11-30T08:00:00Z"}
    made = subprocess.run(
        ["sh", "-c", REPOSITORY], cwd=tree, env=environ, capture_output=True, text=True, check=True
    )
    commit = made.stdout.strip()
    assert facts_of(wheel_of(tree)) == {"commit": commit, "date": "2026-11-30T08:00:00Z"}
    (tree / "LICENSE").write_text("changed")
    facts = facts_of(wheel_of(tree, SOURCE_DATE_EPOCH="0"))
    assert facts == {"commit": f"{commit}-dirty", "date": "1970-01-01T00:00:00Z"}


@pytest.mark.integration
def test_a_tree_without_git_gives_a_wheel_that_knows_nothing(tree: Path) -> None:
    assert facts_of(wheel_of(tree)) is None
