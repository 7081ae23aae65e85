"""What ``reverie bench`` found: a table, the failures by their names, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

import reverie
from reverie.cli.accounts import as_json_text, print_json
from reverie.cli.connection import CallFailed, without_controls
from reverie.cli.tables import print_rows
from reverie.load.answers import Outcome
from reverie.load.figures import Distribution, Report
from reverie.load.plot import svg
from reverie.load.run import Load

_HEADS = ("figure", "mean", "p50", "p90", "p99", "min", "max")
_NAMES = {
    "ttft_ms": "time to first token, ms",
    "itl_ms": "inter-token latency, ms",
    "inter_chunk_ms": "between two chunks, ms",
    "request_latency_ms": "request latency, ms",
    "output_tokens_per_second_per_user": "tokens/s of one answer",
    "prompt_tokens": "tokens of a prompt",
    "output_tokens": "tokens of an answer",
}


def print_report(report: Report, about: dict[str, Any], *, to_stdout: bool) -> None:
    """The table on standard output, and what keeps it from being right on standard error."""
    if to_stdout:
        _print_summary(report, about)
        rows = [[_NAMES[name], *_cells(found)] for name, found in report.figures.items()]
        if rows:
            typer.echo()
            print_rows(_HEADS, rows, right=_HEADS[1:])
    for (name, sentence), count in report.failures.items():
        reason = f"{name}: {sentence}" if sentence else name
        typer.echo(f"failed: {count:,} × {without_controls(reason)}", err=True)
    if report.unfinished:
        typer.echo(f"stopped: {report.unfinished:,} requests were under way", err=True)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if not report.answered:
        typer.echo("error: no request was answered", err=True)


def require_writable(*files: Path | None) -> None:
    """Find out before the load what would keep its figures from being written.

    Raises:
        CallFailed: a file can't be written.
    """
    for file in files:
        if file is not None and str(file) != "-":
            _write(file, "", "a")


def write_files(
    report: Report, load: Load, about: dict[str, Any], json_file: Path | None, plot: Path | None
) -> None:
    """Write what was asked for.

    Raises:
        CallFailed: a file can't be written.
    """
    if json_file is not None:
        whole = {
            "version": reverie.__version__,
            "load": about,
            **report.to_json(),
            "answers": [_answer(outcome, load) for outcome in load.outcomes],
        }
        if str(json_file) == "-":
            print_json(whole)
        else:
            _write(json_file, as_json_text(whole))
    if plot is not None:
        _write(plot, svg(report))


def _print_summary(report: Report, about: dict[str, Any]) -> None:
    typer.echo(
        f"{about['model']} at {about['url']}: {report.answered:,} of {report.sent:,} requests "
        f"answered in {report.seconds:.1f} s, {report.failed:,} failed"
    )
    typer.echo(
        f"{_number(report.requests_per_second)} requests/s, "
        f"{_number(report.tokens_per_second)} tokens/s of answers, "
        f"{_number(report.all_tokens_per_second)} tokens/s with prompts"
    )


def _cells(found: Distribution) -> list[str]:
    percents = [found.percentile(percent) for percent in (50, 90, 99)]
    return [*map(_number, (found.mean, *percents, found.values[0], found.values[-1]))]


def _number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _answer(outcome: Outcome, load: Load) -> dict[str, Any]:
    """One request, for programs; moments are milliseconds after the load's beginning."""
    return {
        "sent_ms": (outcome.started - load.began) * 1e3,
        "ttft_ms": outcome.ttft * 1e3 if outcome.first else None,
        "request_latency_ms": outcome.latency * 1e3 if outcome.last else None,
        "prompt_tokens": outcome.prompt_tokens,
        "output_tokens": outcome.tokens,
        "failure": None if outcome.failure is None else outcome.failure.name,
    }


def _write(file: Path, text: str, mode: str = "w") -> None:
    try:
        with file.open(mode) as opened:
            opened.write(text)
    except OSError as error:
        raise CallFailed(f"{file} can't be written: {error.strerror}") from error
