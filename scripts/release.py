"""Makes a release, into the folder that is named: ``python scripts/release.py dist``.

An sdist and a wheel, ``requirements.txt`` with the hashes of the wheel and of all that it needs, a
bill of materials of what that installs (CycloneDX), and the hashes of all of these.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import reverie

ROOT = Path(__file__).parent.parent
REQUIREMENTS = "requirements.txt"
SUMS = "SHA256SUMS"
_TOOLS = ("uv>=0.13,<0.14", "cyclonedx-bom>=7.5,<8")
"""uv lists the hashes of every file of a version, for whichever machine installs it, without
fetching one; the other writes bills of materials. They live in an environment of their own, for as
long as they are needed."""
_VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
mistake = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())
sys.exit(mistake and f"the bill of materials is not valid: {str(mistake).splitlines()[0]}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go; others there are removed")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        release(folder, Path(scratch))


def release(folder: Path, scratch: Path) -> None:
    wheel = build(folder)
    tools = environment(scratch / "tools", _TOOLS)
    write_requirements(folder, wheel, tools)
    installed = environment(scratch / "installed", ["--require-hashes", "-r", REQUIREMENTS], folder)
    write_bill(folder / f"reverie-{reverie.__version__}.cdx.json", installed, tools)
    write_sums(folder)


def build(folder: Path) -> Path:
    """Build the sdist and the wheel; give the wheel."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", folder)
    [wheel] = folder.glob("*.whl")
    return wheel


def environment(folder: Path, requirements: Iterable[str], cwd: Path | None = None) -> Path:
    """Make an environment with these requirements alone, without even pip; give its Python."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    options = ("--quiet", "--disable-pip-version-check", "--no-compile")
    run(*pip, "install", *options, *requirements, cwd=cwd)
    return python


def write_requirements(folder: Path, wheel: Path, tools: Path) -> None:
    """Write the requirements at the versions of ``constraints.txt``, for every platform."""
    file = folder / REQUIREMENTS
    pinned = ("-c", ROOT / "constraints.txt", "--generate-hashes", "--universal")
    bare = ("--no-header", "--no-annotate", "--no-emit-index-url", "--quiet")
    uv = (tools.parent / "uv", "pip", "compile")
    run(*uv, ROOT / "pyproject.toml", *pinned, *bare, "-o", file, environ=_index(), quiet=True)
    own = f"./{wheel.name} \\\n    --hash=sha256:{sha256(wheel)}\n"
    file.write_text(f"# pip install --require-hashes -r {REQUIREMENTS}\n{own}{file.read_text()}")


def _index() -> dict[str, str]:
    """Where pip looks for packages, in the resolver's words."""
    found = {
        "UV_DEFAULT_INDEX": _pip_setting("index-url"),
        "SSL_CERT_FILE": _pip_setting("cert"),
    }
    return {name: value for name, value in found.items() if value}


def _pip_setting(name: str) -> str:
    variable = f"PIP_{name.replace('-', '_').upper()}"
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return os.environ.get(variable, "") or done.stdout.strip()


def write_bill(file: Path, python: Path, tools: Path) -> None:
    """Write the bill of materials of an environment, checked against its schema."""
    made = ("--output-reproducible", "--no-validate", "--spec-version", "1.6", "--of", "JSON")
    cyclonedx = (tools.parent / "cyclonedx-py", "environment")
    run(*cyclonedx, "--pyproject", ROOT / "pyproject.toml", *made, "-o", file, python)
    bill: dict[str, Any] = json.loads(file.read_text())
    version = reverie.__version__  # which pyproject.toml leaves to the package
    bill["metadata"]["component"] |= {"version": version, "purl": f"pkg:pypi/reverie@{version}"}
    file.write_text(json.dumps(bill, indent=1) + "\n")
    run(tools, "-c", _VALIDATE, file)


def write_sums(folder: Path) -> None:
    """Write the hashes as ``sha256sum -c`` reads them."""
    lines = [f"{sha256(file)}  {file.name}\n" for file in sorted(folder.iterdir())]
    (folder / SUMS).write_text("".join(lines))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run(
    *command: str | Path,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> None:
    """Run a program of the release, which ends with it if it fails."""
    output = subprocess.DEVNULL if quiet else None
    env = {**os.environ, **(environ or {})}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd or ROOT, env=env, stdout=output, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{Path(command[0]).name} failed, and so the release")


if __name__ == "__main__":
    main()
