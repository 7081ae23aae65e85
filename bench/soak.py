"""Soaks two gateways: ``make soak``. An hour of all that happens, then the accounts are done.

Two gateways, one of them with two workers, share a PostgreSQL and three scripted engines. Clients
of every dialect come at a steady rate that leaves the machine room, and behave as clients do; one
thing after the other goes wrong. In its first fifth gateways are killed as well; from then on they
live to the end, and what they take is held against what they took.

At the end each client's own account must be the ledger's, no limit may have been exceeded, each
answer must have been whole to the letter or broken in a way that a fault explains, and memory,
descriptors and threads must be flat. The exit status is 1 if anything is otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import psycopg
import uvloop
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' PostgreSQL serves here, too

from soaking import logs, samples
from soaking.book import Book
from soaking.clients import Crowd
from soaking.faults import FaultLog, Faults
from soaking.samples import Growth, Sample
from soaking.site import KEYS, OPERATOR, Site, site

_HARSH = 0.2
"""The part of a soak in which gateways die, too."""
_WARM = 0.5
"""The part before the samples that count: what is bounded by a number fills up over some 25,000
requests of a process."""
_LATE = 30.0
"""Seconds after which a row of the ledger is as it stays, but for lost ones."""
_QUIET = 60.0
_HELD = (
    "reverie_ledger_open_rows",
    "reverie_journal_entries",
    "reverie_in_flight",
    "reverie_queue_length",
)
"""Metrics that are 0 while nobody asks."""


class Plan(NamedTuple):
    """How long, and how hard."""

    seconds: float
    requests: int | None = None
    """It ends earlier once so many have been sent."""
    rate: float = 60.0
    """Clients a second."""
    every: float = 15.0
    """Seconds from one fault to the next, at least."""
    sample: float = 15.0
    seed: int = 1
    real: bool = False
    faults: Collection[str] = ()
    """Only these; none: all."""


class Report(NamedTuple):
    """What came of it."""

    crowd: Crowd
    book: Book
    faults: FaultLog
    growths: list[Growth]
    seconds: float
    findings: list[str]


class Soak:
    """One soak of a running site."""

    def __init__(self, plan: Plan, site: Site, console: Console) -> None:
        self._plan = plan
        self._site = site
        self._console = console
        self._book = Book({name: limits for name, limits in KEYS.items() if any(limits)})
        self._log = FaultLog(site.folder / "faults.log")
        self._faults = Faults(site, self._log, plan.every, plan.seed, plan.faults)
        self._samples: list[Sample] = []
        self._over = asyncio.Event()
        self._began = time.monotonic()

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    async def run(self) -> Report:
        findings: list[str] = []
        async with Crowd(self._site, self._book, self._log, self._plan.seed) as crowd:
            self._began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                coming = group.create_task(crowd.come(self._plan.rate))
                failing = group.create_task(self._faults.run())
                group.create_task(self._watch(crowd))
                await self._until_over(crowd)
                coming.cancel()
                self._over.set()
                self._faults.stop()
                await failing
            seconds = self._seconds
            await crowd.all_gone(_QUIET)
            findings += await self._leftovers()
            findings += await self._site.stop_gateways()
            await self._settle(0)
        self._book.close()
        samples.write(self._site.folder / "samples.csv", self._samples)
        growths = samples.growths([one for one in self._samples if one.seconds > _WARM * seconds])
        findings += crowd.untrue + crowd.problems + self._log.problems
        findings += [f"the ledger differs: {what}" for what in self._book.differences]
        findings += self._book.limits_exceeded()
        findings += await asyncio.to_thread(self._sums_differ)
        findings += [what for growth in growths for what in growth.findings()]
        findings += self._log_faults() + self._files_left()
        return Report(crowd, self._book, self._log, growths, seconds, findings)

    async def _until_over(self, crowd: Crowd) -> None:
        most = self._plan.requests
        while self._seconds < self._plan.seconds and (most is None or crowd.requests < most):
            done = self._seconds / self._plan.seconds
            if most is not None:
                done = max(done, crowd.requests / most)
            self._faults.harsh = done < _HARSH
            await asyncio.sleep(0.2)

    async def _watch(self, crowd: Crowd) -> None:
        """Sample, settle the accounts, and tell how it goes."""
        told = 0.0
        while not await self._is_over(self._plan.sample):
            seconds = self._seconds
            for gateway in self._site.gateways:
                self._samples += await asyncio.to_thread(samples.sample, gateway, seconds)
            with contextlib.suppress(psycopg.OperationalError):  # it is stopped at this moment
                await self._settle(_LATE)
            if self._seconds - told >= 60:
                told = self._seconds
                self._tell(crowd)

    async def _is_over(self, seconds: float) -> bool:
        """Wait so long, or until the soak's end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        return self._over.is_set()

    async def _settle(self, late: float) -> None:
        """Read the ledger, and judge what was done so many seconds ago."""
        before = time.monotonic() - late
        rows = await asyncio.to_thread(self._site.read_ledger, self._book.unsettled())
        self._book.take(rows)
        self._book.judge(before)

    def _tell(self, crowd: Crowd) -> None:
        newest = [one for one in self._samples if one.seconds == self._samples[-1].seconds]
        findings = len([*crowd.untrue, *crowd.problems, *self._book.differences])
        memory = "  ".join(f"{one.mib:.1f} MiB {one.descriptors} fds" for one in newest)
        self._console.print(
            f"{self._seconds / 60:5.0f} min  {crowd.requests:8,} requests  {crowd.present:3} there"
            f"  {memory}  {sum(self._log.counts.values())} faults"
            f"  {findings} findings",
            highlight=False,
        )

    # The end --------------------------------------------------------------------------------

    async def _leftovers(self) -> list[str]:
        """What gateways still hold once nobody asks them any more."""
        held: dict[str, float] = {}
        deadline = time.monotonic() + _QUIET
        while time.monotonic() < deadline:
            held = {
                f"gateway {gateway.name}: {name}": value
                for gateway in self._site.gateways
                for name, value in (await self._site.metrics(gateway)).items()
                if name.startswith(_HELD) and value
            }
            if not held:
                return []
            await asyncio.sleep(0.5)
        return [f"{name} is {value:g} with nobody there" for name, value in held.items()]

    def _sums_differ(self) -> list[str]:
        """Where the ledger's daily sums aren't those of its rows."""
        found = []
        written = self._site.daily()
        written.pop(OPERATOR, None)
        for key in sorted({*written, *self._book.daily}):
            sums, rows = written.get(key, {}), self._book.daily[key]
            found += [
                f"usage_daily has {value} {name} of {key}, and its rows make {rows[name]}"
                for name, value in sums.items()
                if rows[name] != value
            ]
        return found

    def _log_faults(self) -> list[str]:
        found = []
        for gateway in self._site.gateways:
            with gateway.process.log.open(errors="replace") as lines:
                found += [
                    f"the log of gateway {gateway.name}: {line}" for line in logs.faults(lines)
                ]
        return found

    def _files_left(self) -> list[str]:
        found = []
        for gateway in self._site.gateways:
            journals = [one for one in gateway.state.rglob("journal/**/*") if one.is_file()]
            for file in [*journals, *gateway.temporary.iterdir()]:
                found.append(
                    f"{file.relative_to(gateway.folder)} is left of gateway {gateway.name}"
                )
        return found


def show(report: Report, console: Console) -> None:
    crowd, book = report.crowd, report.book
    table = Table(
        "asked", "requests", title=f"{crowd.requests:,} requests in {report.seconds:,.0f} s"
    )
    for kind, count in sorted(crowd.kinds.items()):
        table.add_row(kind, f"{count:,}")
    console.print(table)
    console.print(
        "Ends: " + ", ".join(f"{count:,} {end}" for end, count in crowd.ends.most_common())
    )
    faults = ", ".join(f"{count} {name}" for name, count in sorted(report.faults.counts.items()))
    console.print(f"Faults: {faults}")
    console.print(f"Ledger's rows: {dict(book.outcomes)}. Held back: {crowd.held_back}")
    table = Table("key", "whole answers", "tokens told", "tokens billed", "difference")
    for key, sums in book.sums.items():
        difference = f"{sums.told - sums.billed:,}"
        table.add_row(key, f"{sums.answers:,}", f"{sums.told:,}", f"{sums.billed:,}", difference)
    console.print(table)
    heads = ("process", "requests", "MiB", "", "MiB/100,000", "descriptors", "threads")
    table = Table(*heads, title="growth since the warm-up")
    for one in report.growths:
        lines = [
            "too short" if line is None else f"{line.slope:+.2f} ± {line.error:.2f}"
            for line in (one.mib, one.descriptors, one.threads)
        ]
        if not one.judged:
            lines[0] += " (not judged)"
        mib = f"{one.first_mib:.1f} → {one.last_mib:.1f}"
        table.add_row(one.process, f"{one.requests:,.0f}", mib, one.drawn, *lines)
    console.print(table)
    console.print(f"Ledger differences: {len(book.differences)}")
    for finding in report.findings[:100]:
        console.print(f"[bold red]✗[/] {finding}", markup=True, highlight=False)
    console.print(f"{len(report.findings)} findings")


async def soak(plan: Plan, folder: Path, console: Console) -> Report:
    async with site(folder, real=plan.real) as running:
        return await Soak(plan, running, console).run()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, help="in place of hours")
    parser.add_argument("--requests", type=int, help="end once so many have been sent")
    parser.add_argument("--rate", type=float, default=Plan._field_defaults["rate"])
    parser.add_argument("--every", type=float, default=15.0, help="seconds from fault to fault")
    parser.add_argument("--sample", type=float, default=15.0, help="seconds from sample to sample")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", action="store_true", help="the default model answers, too")
    parser.add_argument("--fault", action="append", default=[], help="only this one, by its name")
    parser.add_argument("--folder", type=Path, help="for logs and samples, kept")
    given = parser.parse_args(arguments)
    minutes = given.minutes if given.minutes is not None else 60 * given.hours
    plan = Plan(
        seconds=60 * minutes,
        requests=given.requests,
        rate=given.rate,
        every=given.every,
        sample=given.sample,
        seed=given.seed,
        real=given.real,
        faults=given.fault,
    )
    folder = given.folder or Path(tempfile.mkdtemp(prefix="reverie-soak-"))
    folder.mkdir(exist_ok=True)
    console = Console() if sys.stdout.isatty() else Console(width=140)
    report = uvloop.run(soak(plan, folder, console))
    show(report, console)
    if report.findings or given.folder:
        console.print(f"Logs and samples: {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
