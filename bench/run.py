"""Measures what Reverie costs beside others, and prints one table. Run it with ``make bench``.

Servers and load have CPUs of their own, and contestants take turns within one run, since machines
are noisy: read the ratios, and CPU time before rates. How each thing is measured is said in the
module of its scenario, and in ``docs/performance.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import resource
import signal
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import uvloop
from cpus import ALL_CPUS, LOAD_CPUS, SERVER_CPUS, on_cpus
from lineup import FULL, QUICK, USUAL, Bench, Size
from plot import drawn, svg
from rich.console import Console
from scenarios import SCENARIOS

from reverie import __version__

_WIDTH = 150


def machine() -> dict[str, Any]:
    """Where this runs."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cpus": len(ALL_CPUS),
        "servers_on": sorted(SERVER_CPUS),
        "load_on": sorted(LOAD_CPUS),
        "python": platform.python_version(),
        "reverie": __version__,
    }


async def main(chosen: list[str], size: Size, folder: Path, without: Collection[str]) -> Bench:
    """Run scenarios, one after another."""
    bench = Bench(size, folder, without)
    running = asyncio.current_task()
    assert running is not None  # or the servers would outlive this
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    print("installing what Reverie is compared with, unless it is there")
    bench.install()
    try:
        for name in chosen:
            title, run = SCENARIOS[name]
            began = time.monotonic()
            bench.tell(f"{name}) {title}")
            try:
                async with asyncio.timeout(size.limit) as limit:
                    await run(bench)
            except (RuntimeError, OSError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
                if limit.expired():
                    reason = f"its {size.limit / 60:.0f} minutes were over"
                bench.figures.missing[f"the rest of {name}"] = reason
            bench.tell(f"{name}) took {time.monotonic() - began:.0f} s")
    except asyncio.CancelledError:
        bench.figures.missing["the rest"] = "the run was stopped"
    finally:
        await bench.dismiss()
    return bench


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    listed = ", ".join(f"{name} ({title})" for name, (title, _) in SCENARIOS.items())
    parser.add_argument("--scenario", default=",".join(SCENARIOS), help=f"which of {listed}")
    parser.add_argument("--quick", action="store_true", help="a first look, of a few minutes")
    parser.add_argument("--full", action="store_true", help="more rounds, longer ones")
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    parser.add_argument("--streams", type=_numbers, help="of (c), such as 512,2048")
    parser.add_argument("--clients", type=_numbers, help="of (d), such as 1,8")
    parser.add_argument(
        "--without", default="", help="names that don't take part, as LiteLLM,nginx"
    )
    parser.add_argument("--json", type=Path, help="write all values to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--plot", type=Path, help="draw what CPU time each took, as SVG")
    given = parser.parse_args()
    given.scenario = given.scenario.split(",")
    unknown = set(given.scenario) - set(SCENARIOS)
    if unknown:
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}; there are {listed}")
    return given


def report(bench: Bench, given: argparse.Namespace) -> None:
    """Print the table, and write the files that were asked for."""
    versions = ", ".join(f"{name} {version}" for name, version in bench.versions.items())
    print(f"{json.dumps(machine())}\n{versions}")
    Console(width=_WIDTH).print(bench.figures.table())
    if given.json:
        whole = {
            "machine": machine(),
            "versions": bench.versions,
            "missing": bench.figures.missing,
            "figures": bench.figures.to_json(),
        }
        given.json.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    if given.markdown:
        given.markdown.write_text(bench.figures.markdown())
    if given.plot:
        given.plot.write_text(svg(drawn(bench.figures.all)))


if __name__ == "__main__":
    given = arguments()
    size = QUICK if given.quick else FULL if given.full else USUAL
    asked = {name: getattr(given, name) for name in ("rounds", "streams", "clients")}
    size = size._replace(**{name: value for name, value in asked.items() if value})
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as name, on_cpus(LOAD_CPUS):
        report(uvloop.run(main(given.scenario, size, Path(name), given.without.split(","))), given)
