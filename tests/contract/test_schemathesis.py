"""What the API's description says is what the server does, as schemathesis tries it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reverie.testing.thread import ThreadedEngine
from tests.contract.conftest import reverie_serve

ADMIN = "an-admin-key-of-this-test"
LEFT_OUT = ("positive_data_acceptance", "use_after_free")
"""A description can't state the rules between fields (two names of one limit, a tool that must be
listed), so what it allows may be refused. And a revoked key can still be looked at."""
WITHOUT_KEYS = (*LEFT_OUT, "ignored_auth", "missing_required_header")
"""A server without keys asks for none, though the description says what they are for."""


def findings(url: str, key: str, folder: Path, left_out: tuple[str, ...], *options: str) -> str:
    """What schemathesis finds; nothing if all is well."""
    ran = subprocess.run(
        [
            str(Path(sys.executable).with_name("st")),
            *("run", f"{url}/openapi.json", "--url", url, "--max-examples", "10"),
            *("--continue-on-failure", "--exclude-checks", ",".join(left_out), "--no-color"),
            *("-H", f"Authorization: Bearer {key}", *options),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


@pytest.mark.parametrize("keys", ["right", ""], ids=["keys", "no keys"])
def test_the_server_does_what_its_description_says(keys: str, tmp_path: Path) -> None:
    with ThreadedEngine() as engine:
        (tmp_path / "reverie.toml").write_text(
            f'[[models]]\nname = "m"\n[[models.backends]]\nurl = "{engine.url}"\n'
        )
        environ = {"REVERIE_API_KEYS": keys, "REVERIE_ADMIN_KEY": ADMIN}
        with reverie_serve(cwd=tmp_path, **environ) as served:
            left_out = LEFT_OUT if keys else WITHOUT_KEYS
            for key, which in (("right", "--exclude-path-regex"), (ADMIN, "--include-path-regex")):
                assert not findings(served.url, key, tmp_path, left_out, which, "^/admin")
