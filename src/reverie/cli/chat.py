"""``reverie chat``: a conversation in the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import typer

from reverie.cli.answers import Answer
from reverie.cli.connection import CallFailed, Connection, Piece, Url, without_controls
from reverie.cli.conversation import SETTINGS, Conversation, WrongInput
from reverie.cli.line_input import LineInput, remind_of_signals
from reverie.cli.own_server import server
from reverie.cli.rendering import output, replace_what_has_no_code
from reverie.cli.run import DEFAULT_MAX_TOKENS, AskedModel, MaxTokens, System, Temperature

_HELP = r"""
/system TEXT       what the model is told first; alone: show it; clear: none
/model NAME        ask this model from now on; alone: list the models
/set NAME VALUE    set a field of the requests, as in /set temperature 0.2;
                   without a value: back to the default; alone: show all
/image FILE        send this image with the next question
/save FILE         write the conversation, as Markdown or (FILE.json) as JSON
/new               begin anew
/help              this
/quit              end, as Ctrl-D does

A line that ends with \ goes on with the next one, and so does what stands
between two \"\"\". Ctrl-C stops an answer. A line that begins with a space
isn't kept in the history.
""".replace(r"\"", '"')

_ENDING = ("quit", "exit", "bye")


def chat(
    model: AskedModel = None,
    system: System = None,
    max_tokens: MaxTokens = DEFAULT_MAX_TOKENS,
    temperature: Temperature = None,
    url: Url = None,
) -> None:
    """Talk to a model: answers stream as Markdown, and /help lists what else can be typed.

    If no server is named and none answers, one is started until the chat ends.

    Example: reverie chat --system "Answer in one sentence."
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise typer.BadParameter(
            "a chat needs a terminal; in a pipe, use reverie run", param_hint="standard input"
        )
    replace_what_has_no_code()
    settings: dict[str, Any] = {"max_tokens": max_tokens}
    if temperature is not None:
        settings["temperature"] = temperature
    with server(url, model) as (connection, name):
        models = _models_of(connection)
        if name is not None and name not in models:
            raise CallFailed(f"There is no model {name}; there are {', '.join(models)}.")
        conversation = Conversation(name or models[0], system, settings=settings)
        _dim(f"{conversation.model} at {connection.url} · /help lists commands, Ctrl-D ends")
        remind_of_signals()
        _Chat(connection, conversation, LineInput()).run()


def _models_of(connection: Connection) -> list[str]:
    """The names that can be asked, the default first.

    Raises:
        CallFailed: the server refuses to tell, or has none.
    """
    listed = connection.get_json("/v1/models")
    try:
        names = [
            without_controls(entry["id"])
            for entry in listed["data"]
            if entry.get("task", "generate") == "generate"
        ]
        default = connection.get_json("/version")["model_id"]
    except (LookupError, TypeError, AttributeError, CallFailed):
        raise connection.unknown() from None
    if not names:
        raise CallFailed(f"{connection.url} has no model that generates text.")
    return sorted(names, key=lambda name: name != default)


class _Chat:
    """The loop: a message or a command, and what comes of it."""

    def __init__(
        self, connection: Connection, conversation: Conversation, lines: LineInput
    ) -> None:
        self._connection = connection
        self._conversation = conversation
        self._lines = lines
        self._commands: dict[str, Callable[[str], None]] = {
            "system": self._system,
            "model": self._model,
            "set": self._set,
            "image": self._image,
            "save": self._save,
            "new": self._new,
            "help": lambda _: typer.echo(_HELP),
        }

    def run(self) -> None:
        """Go on until Ctrl-D or /quit."""
        while True:
            try:
                said = self._lines.message()
            except KeyboardInterrupt:
                _dim("\n(Ctrl-D or /quit ends)")
                continue
            except EOFError:
                typer.echo()
                return
            name, _, argument = said.text.removeprefix("/").partition(" ")
            if said.is_command and name in _ENDING:
                return
            if said.is_command:
                self._command(name, argument.strip())
            elif said.text:
                self._ask(said.text)

    def _ask(self, said: str) -> None:
        """Show the answer. Ctrl-C stops it, and what has come of it stays."""
        answer = _Record()
        body = self._conversation.ask(said)
        stream = Answer(self._connection, body, may_begin_anew=True).pieces()
        try:
            # Closed even if it is stopped, so that the server stops, too.
            with closing(stream), output() as shown:
                for piece in stream:
                    answer.take(piece)
                    shown.add_piece(piece)
        except KeyboardInterrupt:
            _dim("(stopped)")
        except CallFailed as error:
            _complain(str(error))
        else:
            _dim(answer.figures())
        self._conversation.answered("".join(answer.texts))

    # Commands -----------------------------------------------------------------------------

    def _command(self, name: str, argument: str) -> None:
        command = self._commands.get(name)
        if command is None:
            _complain(f"there is no /{without_controls(name)}; /help lists what there is")
            return
        try:
            command(argument)
        except (WrongInput, CallFailed) as error:
            _complain(str(error))
        except KeyboardInterrupt:
            typer.echo()

    def _system(self, text: str) -> None:
        if text:
            self._conversation.system = None if text == "clear" else text
        _dim(self._conversation.system or "no system prompt")

    def _model(self, name: str) -> None:
        names = _models_of(self._connection)
        if not name:
            for one in names:
                typer.echo(f"{'*' if one == self._conversation.model else ' '} {one}")
            return
        if name not in names:
            raise WrongInput(f"there is no model {name}; there are {', '.join(names)}")
        self._conversation.model = name
        _dim(f"{name} from now on")

    def _set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        if name:
            self._conversation.change(name, value.strip())
        for one in [name] if name else SETTINGS:
            _dim(f"{one} = {self._conversation.settings.get(one, 'default')}")

    def _image(self, file: str) -> None:
        if not file:
            raise WrongInput("write /image FILE")
        self._conversation.attach(Path(file))
        _dim(f"{file} goes with the next question")

    def _save(self, file: str) -> None:
        if not file:
            raise WrongInput("write /save FILE")
        self._conversation.save(Path(file))
        _dim(f"saved as {file}")

    def _new(self, _: str) -> None:
        self._conversation.begin_anew()
        _dim("the conversation begins anew")


class _Record:
    """What has come of an answer, and how fast."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._finish: str | None = None
        self._tokens: int | None = None
        self._began = self._last = time.monotonic()
        self._first: float | None = None

    def take(self, piece: Piece) -> None:
        self._last = time.monotonic()
        if self._first is None and (piece.text or piece.reasoning):
            self._first = self._last
        if piece.begins_anew:
            self.texts = []
        self.texts.append(piece.text)
        self._finish = piece.finish_reason or self._finish
        if piece.usage is not None:
            self._tokens = piece.usage.get("completion_tokens")

    def figures(self) -> str:
        """Tokens, tokens per second and the time to the first, as far as they are known."""
        parts = []
        if self._tokens is not None:
            parts.append(f"{self._tokens} tokens")
        if self._first is not None:
            span = self._last - self._first
            if self._tokens is not None and self._tokens > 1 and span > 0:
                parts.append(f"{(self._tokens - 1) / span:.1f} tokens/s")
            parts.append(f"{self._first - self._began:.2f} s to the first")
        if self._finish == "length":
            parts.append("cut: /set max_tokens N allows more")
        return " · ".join(parts) or "no answer"


def _dim(text: str) -> None:
    typer.secho(text, dim=True)


def _complain(text: str) -> None:
    typer.secho(f"error: {text}", fg=typer.colors.RED, err=True)
