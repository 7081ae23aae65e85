"""Every block of code in the pages is what it says: a configuration, a command of ours, JSON."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import tomllib
from typing import Any

import pytest
from typer._click.exceptions import UsageError
from typer.main import get_command

from reverie.cli.commands import app
from reverie.settings import Settings
from reverie.testing.__main__ import _parser as parser_of_the_engine
from tests.docs.snippets import PAGES, ROOT, Snippet, parse, snippets_of

ALL = [snippet for page in PAGES for snippet in snippets_of(page)]
HAVE_TESTS = {"quickstart.md", "clients.md", "accounts.md", "operations.md", "testing.md"}
"""Pages whose blocks with a comment are run: by a test of their own, or by test_pages.py."""
RUN_IN_FULL = {"quickstart.md", "clients.md"}
"""Pages whose blocks are all run, or say why they aren't."""
PROGRAMS = {"sh", "python", "js", "ts", "yaml", "toml"}


def checked(*languages: str) -> Any:
    found = [one for one in ALL if one.language in languages and one.is_checked]
    assert found
    return pytest.mark.parametrize("snippet", found, ids=str)


@checked("toml")
def test_a_configuration_is_one_that_reverie_takes(snippet: Snippet) -> None:
    written = tomllib.loads(snippet.text)
    models = written.get("models")
    if isinstance(models, dict):  # a part of a model's
        written["models"] = [{"name": "m", **models}]
    for model in written.get("models", []):
        if not {"source", "backends"} & model.keys():
            model["source"] = "smollm2-135m"
    Settings.model_validate(written)


@checked("json")
def test_json_is_json(snippet: Snippet) -> None:
    """An ellipsis outside of strings stands for more of the same."""
    json.loads(re.sub(r",\s*…|(?<=\[)…(?=\])", "", snippet.text))


@checked("python")
def test_python_is_python(snippet: Snippet) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT  # what stands within a coroutine of the reader's
    compile(snippet.text, str(snippet), "exec", flags=flags, dont_inherit=True)


@pytest.mark.integration
def test_shell_is_shell() -> None:
    scripts = [one for one in ALL if one.language == "sh" and not one.why_not]
    for script in scripts:
        done = subprocess.run(
            ["bash", "-n"], input=script.text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{script}: {done.stderr}"


@pytest.mark.parametrize(
    "snippet", [one for one in ALL if one.language == "sh" and not one.why_not], ids=str
)
def test_commands_are_ours(snippet: Snippet) -> None:
    for name, arguments in commands(snippet.text):
        if name == "reverie":
            parse_as_reverie(arguments)
        elif name == "make":
            targets = [word for word in arguments if "=" not in word and not word.startswith("-")]
            for target in targets:
                makefile = (ROOT / "Makefile").read_text()
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
        elif arguments[:2] == ["-m", "reverie.testing"]:
            parser_of_the_engine().parse_args(arguments[2:])


def commands(script: str) -> list[tuple[str, list[str]]]:
    """The commands of a shell script: their names, without folders, and their arguments."""
    found: list[tuple[str, list[str]]] = []
    for line in re.sub(r"\\\n", " ", script).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        try:
            tokens = [*lexer, ";"]
        except ValueError:  # a text of several lines
            continue
        words: list[str] = []
        is_file = False
        for token in tokens:
            if not set(token) <= set("|&;<>()"):
                words += [] if is_file else [token]
                is_file = False
            elif set(token) & set("<>"):
                is_file = True
            else:
                while words and re.match(r"\w+=|sudo$|export$", words[0]):
                    words.pop(0)
                if words:
                    found.append((words[0].rsplit("/", 1)[-1], words[1:]))
                words = []
    return found


def parse_as_reverie(arguments: list[str]) -> None:
    """Have the command line read them, without doing what they say."""
    command: Any = get_command(app)
    context = None
    while True:
        arguments = [word for word in arguments if word != "…"]
        shown = {"--install-completion", "--show-completion", "--help", "--version"}
        if shown & set(arguments):
            return
        name = getattr(command, "name", None)
        context = command.make_context(name, list(arguments), parent=context)
        if not hasattr(command, "commands"):
            return
        remaining = [*context._protected_args, *context.args]
        _, command, arguments = command.resolve_command(context, remaining)


@pytest.mark.parametrize(
    "line",
    ["reverie serv", "reverie serve --prot 1", "FOO=1 reverie usage --by", "x | reverie keys make"],
)
def test_a_command_that_is_not_ours_is_found(line: str) -> None:
    ((_, arguments),) = [one for one in commands(line) if one[0] == "reverie"]
    with pytest.raises(UsageError):
        parse_as_reverie(arguments)


@pytest.mark.parametrize("name", sorted(RUN_IN_FULL))
def test_each_program_of_a_page_is_run_or_says_why_not(name: str) -> None:
    programs = [one for one in snippets_of(ROOT / "docs" / name) if one.language in PROGRAMS]
    assert programs
    assert [str(one) for one in programs if one.is_checked] == []


def test_what_a_page_calls_run_is_run() -> None:
    assert {one.page for one in ALL if one.is_run} == HAVE_TESTS


def test_a_comment_says_how_a_block_is_run() -> None:
    page = "<!-- run: with openai prints 'a b' -->\n```python\nx\n```\n"
    (snippet,) = parse("p.md", page)
    assert snippet.is_run
    assert (snippet.word("with"), snippet.word("prints")) == ("openai", "a b")
    (snippet,) = parse("p.md", "<!-- not run: it needs a GPU -->\n  ```sh\n  x\n    y\n  ```\n")
    assert (snippet.why_not, snippet.text) == ("it needs a GPU", "x\n  y\n")
    for wrong in ("<!-- runs -->", "<!-- not run -->", "<!-- run: alone -->"):
        with pytest.raises(AssertionError):
            parse("p.md", f"{wrong}\n```sh\nx\n```\n")
