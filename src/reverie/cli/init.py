"""``reverie init``: a first ``reverie.toml``, from four questions."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import typer
from pydantic import ValidationError

from reverie.addresses import is_loopback
from reverie.errors import ConfigurationError, ModelError
from reverie.settings import (
    CONFIG_FILE,
    DEFAULT_MODEL,
    NO_STORE,
    STORE_FILE,
    Settings,
    StoreSettings,
)

_URLS = ("http://", "https://", "http+unix://")


class _Answers(NamedTuple):
    """What was asked."""

    model: str
    host: str
    keys: bool
    store: str


def init(
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: take the default of each question.")
    ] = False,
    file: Annotated[
        Path, typer.Option(metavar="FILE", help="The file to write.", show_default=True)
    ] = Path(CONFIG_FILE),
) -> None:
    """Write a reverie.toml with comments, after four questions: model, host, keys, store.

    A file that is there is never overwritten without asking, and with --yes not at all.

    Example: reverie init --yes
    """
    _mind_existing(file, ask=not yes)
    answers = _Answers(DEFAULT_MODEL, "127.0.0.1", False, StoreSettings().url) if yes else _ask()
    text = _text(answers)
    _check(text)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError([f"{file}: can't be written: {error.strerror}"]) from None
    typer.echo(f"{file} is written. What next:\n")
    for step in _next_steps(answers, file):
        typer.echo(f"  {step}")


def _mind_existing(file: Path, *, ask: bool) -> None:
    if not file.exists():
        return
    if not ask:
        raise ConfigurationError([f"{file}: is there already; move it away, or leave out --yes"])
    typer.confirm(f"{file} is there already. Overwrite it?", default=False, abort=True)


# Questions --------------------------------------------------------------------------------


def _ask() -> _Answers:
    model = _prompt(
        "Model: a catalogue name, hf:OWNER/REPO[/FILE.gguf], a path, or NAME=URL of a server",
        DEFAULT_MODEL,
        _checked_model,
    )
    host = _prompt("Address to listen on (0.0.0.0: all)", "127.0.0.1", str.strip)
    keys = typer.confirm("Do callers need a key?", default=not is_loopback(host))
    store = _prompt(
        "Store of keys and usage: sqlite:///FILE, postgresql://USER@HOST/DATABASE, none",
        StoreSettings().url,
        _checked_store,
    )
    return _Answers(model, host, keys, store)


def _prompt(question: str, default: str, check: Callable[[str], str]) -> str:
    """Ask until the answer can be used."""
    return str(typer.prompt(question, default=default, value_proc=check))


def _checked_model(written: str) -> str:
    from reverie.models.reference import parse

    written = written.strip()
    name, _, url = written.partition("=")
    if url.startswith(_URLS) and name.strip():
        return written
    try:
        parse(written)
    except ModelError as error:
        raise typer.BadParameter(str(error)) from None
    return written


def _checked_store(written: str) -> str:
    from reverie.gateway.accounts.store import parse_url

    written = written.strip()
    if written == NO_STORE:
        return written
    try:
        parse_url(written)
        if urlsplit(written).password:
            raise typer.BadParameter("put a URL with a password into REVERIE_STORE_URL instead")
    except ConfigurationError as error:
        raise typer.BadParameter(error.problems[0].removeprefix("store.url: ")) from None
    except ValueError:
        raise typer.BadParameter("that is no URL") from None
    return written


# The file ---------------------------------------------------------------------------------


def _text(answers: _Answers) -> str:
    return "\n".join([_HEAD, _server(answers), _store_section(answers), _model_section(answers)])


_HEAD = """\
# Reverie's configuration. Every key is described in docs/configuration.md.
# What is left out has its default. reverie check says what this would run.
"""


def _server(answers: _Answers) -> str:
    lines = [
        "[server]",
        "# The address to listen on. Any but loopback needs a key, or no_auth.",
        f"host = {_quoted(answers.host)}",
        "# port = 8000",
    ]
    if answers.keys:
        lines += [
            "# Callers need a key as soon as there is one: reverie keys create --name NAME",
            "# or, without a store, REVERIE_API_KEYS. Keys are never written here.",
        ]
    elif not is_loopback(answers.host):
        lines += ["# Anyone who can reach the port can use it.", "no_auth = true"]
    lines += [
        "# Requests that may wait for a slot, and for how many seconds.",
        "# queue_size = 128",
        "# queue_timeout = 30",
    ]
    return "\n".join(lines) + "\n"


def _store_section(answers: _Answers) -> str:
    """The default isn't written out: it is another for each user."""
    if answers.store == StoreSettings().url:
        return f"""\
[store]
# Where keys, limits and usage are kept; "none" keeps no accounts. What is left out is
# {STORE_FILE} in the state directory, ~/.local/state/reverie.
# url = "sqlite:////srv/reverie/{STORE_FILE}"
"""
    return f"""\
[store]
# Where keys, limits and usage are kept; "none" keeps no accounts.
url = {_quoted(answers.store)}
"""


def _model_section(answers: _Answers) -> str:
    name, _, url = answers.model.partition("=")
    if url.startswith(_URLS):
        return f"""\
[[models]]
name = {_quoted(name.strip())}
default = true

# A server that serves it. More of them share its requests, and stand in for each other.
[[models.backends]]
url = {_quoted(url.strip())}
# The variable that holds the key for that server.
# api_key_env = "BACKEND_KEY"
"""
    from reverie.models.reference import name_of

    return f"""\
[[models]]
# The name by which requests ask for it.
name = {_quoted(name_of(answers.model))}
# Run here: a catalogue name, hf:OWNER/REPO[/FILE.gguf], or a path.
source = {_quoted(answers.model)}
default = true
# Requests that run at once.
# slots = 8
# Tokens of prompt and answer together; 0: as many as the model knows, at most 32768.
# context = 0

# What a million tokens cost.
# [models.price]
# input = "0.10USD"
# output = "0.40USD"
"""


def _quoted(text: str) -> str:
    """A TOML string. TOML's escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _check(text: str) -> None:
    """Refuse what the server would refuse, before anything is written.

    Raises:
        ConfigurationError
    """
    try:
        Settings.model_validate(tomllib.loads(text))
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_input=False)
        raise ConfigurationError(
            [f"{mistake['loc'][-1]}: {mistake['msg']}" for mistake in mistakes]
        ) from None
    except ValueError as error:
        raise ConfigurationError([f"what was answered can't be used: {error}"]) from None


def _next_steps(answers: _Answers, file: Path) -> list[str]:
    option = "" if file == Path(CONFIG_FILE) else f" --config {file}"
    steps = [f"reverie check{option}"]
    if answers.keys and answers.store != NO_STORE:
        steps.append(f"reverie keys create --name NAME{option}")
    if answers.keys and answers.store == NO_STORE:
        steps.append('export REVERIE_API_KEYS="$(openssl rand -hex 32)"')
    return [*steps, f"reverie serve{option}"]
