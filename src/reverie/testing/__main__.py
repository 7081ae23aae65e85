"""``python -m reverie.testing``: a scripted engine as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import re
import signal
import sys
from collections.abc import Sequence

import uvloop

from reverie.testing.engine import ScriptedEngine
from reverie.testing.script import Script

_OPTIONS = frozenset(field.name for field in dataclasses.fields(Script))
_TEXT = "The quick brown fox jumps over the lazy dog."
_EXAMPLES = """\
examples:
  a fast engine, for load tests:       python -m reverie.testing --port 9100 --tokens 64
  one that takes its time:             ... --first-delay 0.2 --delay 0.02
  one that dies after three tokens:    ... --die-after 3 --die-how close
  one that is overloaded:              ... --status 503 --retry-after 1

Then: curl -N http://127.0.0.1:9100/v1/chat/completions \\
  -d '{"messages": [{"role": "user", "content": "Hi"}], "stream": true}'
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        script = _script(given)
    except ValueError as error:
        parser.error(str(error))
    engine = ScriptedEngine(
        script,
        host=given.host,
        port=given.port,
        socket=given.socket,
        model=given.model,
        record=False,
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(engine))
    except OSError as error:
        where = given.socket or f"{given.host}:{given.port}"
        sys.stderr.write(f"can't listen on {where}: {error.strerror}\n")
        return 1
    return 0


async def _serve(engine: ScriptedEngine) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with engine:
        sys.stdout.write(f"{engine.url}\n")
        sys.stdout.flush()
        await stop.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reverie.testing",
        description="An OpenAI-compatible engine without a model, which answers by script, with "
        "the pace and the faults that you choose. It prints its base URL once it listens.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address [127.0.0.1]")
    where.add_argument("--port", type=int, default=0, help="port; 0 takes a free one [0]")
    where.add_argument("--socket", metavar="PATH", help="a Unix socket instead")
    where.add_argument("--model", default="scripted", help="name in /v1/models [scripted]")
    what = parser.add_argument_group("what it says")
    what.add_argument("--text", default=_TEXT, help="the answer; a word is a token")
    what.add_argument(
        "--tokens",
        type=_positive,
        metavar="N",
        help="send exactly N tokens: cut or repeat the text",
    )
    what.add_argument("--prompt-tokens", type=int, default=10, metavar="N", help="in usage [10]")
    pace = parser.add_argument_group("at what pace (seconds)")
    pace.add_argument("--first-delay", type=float, default=0.0, metavar="S", help="to the first")
    pace.add_argument("--delay", type=float, default=0.0, metavar="S", help="between two writes")
    pace.add_argument(
        "--batch", type=int, metavar="N", help="tokens per write [all in one; 1 with --delay]"
    )
    pace.add_argument("--split", type=int, metavar="BYTES", help="cut the body so")
    faults = parser.add_argument_group("with what faults")
    faults.add_argument("--die-after", type=int, metavar="N", help="break off after N tokens")
    faults.add_argument("--die-at-byte", type=int, metavar="N", help="break off inside an event")
    faults.add_argument(
        "--die-how",
        choices=("reset", "close", "end"),
        default="reset",
        help="reset the connection, close it, or end the body too early [reset]",
    )
    faults.add_argument("--stall-after", type=int, metavar="N", help="fall silent after N tokens")
    faults.add_argument("--status", type=int, default=200, help="answer with this error status")
    faults.add_argument("--retry-after", type=float, metavar="S", help="and this Retry-After")
    faults.add_argument("--html", action="store_true", help="answer with a page")
    return parser


def _script(given: argparse.Namespace) -> Script:
    tokens = re.findall(r"\s*\S+", given.text) or [given.text]
    if given.tokens is not None:
        first, *others = tokens
        repeated = [f" {first.lstrip()}", *others]
        tokens = list(
            itertools.islice(itertools.chain(tokens, itertools.cycle(repeated)), given.tokens)
        )
    options = {name: value for name, value in vars(given).items() if name in _OPTIONS}
    if given.batch is None and given.delay:
        options["batch"] = 1
    return Script(**{**options, "tokens": tuple(tokens)})


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
