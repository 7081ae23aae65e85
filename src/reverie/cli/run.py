"""``reverie run``: one question, one answer."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated, Any, TypeAlias

import typer

from reverie.cli.accounts import AsJson, print_json
from reverie.cli.answers import Answer
from reverie.cli.connection import Url
from reverie.cli.own_server import server
from reverie.cli.rendering import output

DEFAULT_MAX_TOKENS = 1024
"""More than the server's own default, at which most answers would be cut."""

AskedModel: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="The model to ask; default: the server's. If a server is started for this, also a "
        "catalogue name, hf:OWNER/REPO[/FILE.gguf], or a path.",
    ),
]
System: TypeAlias = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What the model is told first.")
]
MaxTokens: TypeAlias = Annotated[
    int, typer.Option(metavar="N", min=1, help="The most tokens of an answer.")
]
Temperature: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        min=0,
        max=2,
        help="How freely the model chooses, from 0 to 2; default: the server's.",
    ),
]


def run(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="What to ask. What is piped in stands below it.",
            show_default=False,
        ),
    ] = None,
    model: AskedModel = None,
    system: System = None,
    max_tokens: MaxTokens = DEFAULT_MAX_TOKENS,
    temperature: Temperature = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Ask a model, and print its answer as it comes.

    On a terminal the answer is rendered as Markdown, elsewhere it is plain text. If no server is
    named and none answers, one is started until the answer is there. A connection that drops is
    taken up again, also after a restart of the server. Exits with 1 and a sentence if there is no
    whole answer.

    Example: cat report.txt | reverie run "Summarise this in three lines"
    """
    body: dict[str, Any] = {"messages": _messages(prompt, system), "max_tokens": max_tokens}
    if temperature is not None:
        body["temperature"] = temperature
    with server(url, model) as (connection, name):
        if name is not None:
            body["model"] = name
        answer = Answer(connection, body, may_begin_anew=as_json or sys.stdout.isatty())
        if as_json:
            print_json(answer.whole())
        else:
            _print_answer(answer)


def _messages(prompt: str | None, system: str | None) -> list[dict[str, Any]]:
    asked = "\n\n".join(filter(None, [prompt, _piped()]))
    if not asked.strip():
        raise typer.BadParameter(
            'say what to ask, as in reverie run "Say hello."', param_hint="'PROMPT'"
        )
    told = [{"role": "system", "content": system}] if system else []
    return [*told, {"role": "user", "content": asked}]


def _piped() -> str:
    """What standard input holds, unless it is a terminal or closed."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError:
        raise typer.BadParameter("it isn't text in UTF-8", param_hint="standard input") from None


def _print_answer(answer: Answer) -> None:
    finish = None
    with closing(answer.pieces()) as pieces, output() as shown:
        for piece in pieces:
            shown.add_piece(piece)
            finish = piece.finish_reason or finish
    if finish == "length":
        typer.echo("note: the answer was cut; --max-tokens allows a longer one", err=True)
