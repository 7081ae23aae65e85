"""A gateway for the terminal's verbs to ask: ``reverie serve`` over a scripted engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reverie.testing import ThreadedEngine
from tests.cli.test_serve import Serving, serving

KEY = "rv_test-key"


def configure(folder: Path, engine: ThreadedEngine, *, keyed: bool = False) -> None:
    """Write a configuration with one model ``m``, on the engine."""
    keys = ""
    if keyed:
        (folder / "keys").write_text(f"{hashlib.sha256(KEY.encode()).hexdigest()} alice\n")
        keys = f'[server]\napi_keys_file = "{folder}/keys"\n'
    (folder / "reverie.toml").write_text(
        f'{keys}[[models]]\nname = "m"\naliases = ["other"]\n'
        f'price = {{ input = "1USD", output = "2USD" }}\n'
        f'[[models.backends]]\nurl = "{engine.url}"\nvision = true\nslots = 3\n'
    )


@contextmanager
def gateway(folder: Path, engine: ThreadedEngine, *, keyed: bool = False) -> Iterator[Serving]:
    folder.mkdir(exist_ok=True)
    configure(folder, engine, keyed=keyed)
    with serving(folder, start_new_session=True) as server:
        yield server
