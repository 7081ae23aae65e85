"""``reverie bench``: load on a server, and what its clients see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from reverie.cli.connection import (
    DEFAULT_URL,
    KEY_VARIABLE,
    URL_VARIABLE,
    CallFailed,
    Connection,
    key_from,
)

if TYPE_CHECKING:
    from reverie.load.run import Plan

_CONCURRENCY = 8
_OF_EACH = 10
"""Requests for each that is under way at a time, where neither --requests nor --duration is set."""
_RATED = 100
"""The same with a rate."""


def bench(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            envvar=URL_VARIABLE,
            help=f"The server, with or without /v1. Its key is read from {KEY_VARIABLE}.",
        ),
    ] = DEFAULT_URL,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model to ask; default: the first of its list."),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help=f"Requests under way all the time [{_CONCURRENCY}]; with --rate, at most.",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="R", min=0.001, help="Send R requests a second, at random moments (Poisson)."
        ),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help=f"End after N requests [{_OF_EACH} for each under way; {_RATED} with --rate].",
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="S", min=0.1, help="Send for S seconds; what is under way is waited for."
        ),
    ] = None,
    warmup: Annotated[
        int, typer.Option(metavar="N", min=0, help="Requests before that don't count.")
    ] = 0,
    prompt_tokens: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Tokens of a prompt, about: it is so many words."),
    ] = 128,
    output_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="The most tokens of an answer.")
    ] = 64,
    ignore_eos: Annotated[
        bool,
        typer.Option(
            "--ignore-eos", help="Have every answer as long as that, where the server can."
        ),
    ] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='JSONL: strings, or objects with "prompt" or "messages", in turn.',
        ),
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A further field of each request. Can be repeated."
        ),
    ] = None,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Ask for whole answers: there is no TTFT or ITL.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="S", min=0.1, help="The most seconds of a request.")
    ] = 600.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Chooses the words and the moments.")] = 0,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures; -: to standard output."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw how latencies are distributed.")
    ] = None,
) -> None:
    """Put load on any OpenAI-compatible server, and measure what its clients see.

    Definitions are those of aiperf and of vLLM's benchmark. TTFT: from the request to the first
    token with content. Request latency: from the request to the last token. ITL (TPOT): (request
    latency - TTFT) / (tokens - 1). Tokens are those that the server counts. Rates: what was
    answered, divided by the time from the first request to the last token. What failed is counted
    by its reason, and is in no figure.

    Ctrl-C ends it early and prints what came so far. Exits with 1 if nothing was answered.

    Example: reverie bench http://127.0.0.1:8000 --concurrency 32 --duration 30 --json run.json
    """
    # Imported here: the other verbs don't need it.
    from reverie.cli.bench_report import print_report, require_writable, write_files
    from reverie.cli.bench_run import run_loads
    from reverie.load.figures import report
    from reverie.load.run import Plan

    require_writable(json_file, plot)
    key = key_from()
    server = Connection(url, key, given_as="URL")
    plan = Plan(
        concurrency=concurrency or (None if rate else _CONCURRENCY),
        rate=rate,
        requests=requests or (None if duration else _enough(concurrency, rate)),
        seconds=duration,
        stream=not no_stream,
        seed=seed,
    )
    fields = {
        "model": model or _first_model(server),
        "max_tokens": output_tokens,
        **({"ignore_eos": True} if ignore_eos else {}),
        **_fields(extra or []),
    }
    bodies = _bodies(prompts, prompt_tokens, plan, fields)
    load = run_loads(server.url, key, timeout, [*_warmup(plan, warmup), plan], bodies)
    found = report(load)
    about = {"url": server.url, **fields, **msgspec.to_builtins(plan)}
    print_report(found, about, to_stdout=str(json_file) != "-")
    write_files(found, load, about, json_file, plot)
    if load.was_stopped:
        raise typer.Exit(130)
    if not found.answered:
        raise typer.Exit(1)


def _enough(concurrency: int | None, rate: float | None) -> int:
    return _RATED if rate else _OF_EACH * (concurrency or _CONCURRENCY)


def _warmup(plan: Plan, requests: int) -> list[Plan]:
    """The plan of the requests that don't count."""
    return [msgspec.structs.replace(plan, requests=requests, seconds=None)] if requests else []


def _bodies(
    file: Path | None, prompt_tokens: int, plan: Plan, fields: dict[str, Any]
) -> Iterator[bytes]:
    from reverie.load import prompts

    try:
        asked = prompts.from_file(file) if file else prompts.synthetic(prompt_tokens, plan.seed)
    except prompts.PromptFileError as error:
        raise typer.BadParameter(str(error), param_hint="'--prompts'") from None
    return prompts.bodies(asked, fields, stream=plan.stream)


def _fields(given: list[str]) -> dict[str, Any]:
    """``NAME=VALUE``, where the value is JSON, or a string."""
    fields: dict[str, Any] = {}
    for one in given:
        name, separator, value = one.partition("=")
        if not (name and separator):
            raise typer.BadParameter(
                "write a field and its value, as in temperature=0", param_hint="'--extra'"
            )
        try:
            fields[name] = msgspec.json.decode(value)
        except msgspec.MsgspecError:
            fields[name] = value
    return fields


def _first_model(server: Connection) -> str:
    """The first of the server's list that generates text."""
    listed = server.get_json("/v1/models")
    entries = listed.get("data") if isinstance(listed, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("task", "generate") == "generate":
            name = entry.get("id")
            if isinstance(name, str):
                return name
    raise CallFailed(f"{server.url} lists no model: name the one to ask with --model.")
