"""Simulates a cluster of up to 1,000 engines and 100,000 clients, on this machine alone.

The scheduler is Reverie's own, on a clock that jumps from one moment at which something happens to
the next; engines only take their time. Run it with ``make bench-cluster``: the usual size takes
about a minute and a half, ``B=--quick`` some seconds, ``B="--engines 1000 --clients 100000"`` about
ten times as long. The same seed gives the same tables, but for the scheduler's CPU time.

Tables, and what they answer:
  routing   what affinity gains beside sending requests to whichever engine has least to do
  fairness  what a key gets, and waits, beside a greedy one; and where all are greedy
  gateways  what several gateways cost that share the engines, with and without being told of each
            other's load
  events    what engines that die, come back, or are added do to conversations
  cost      CPU time of the scheduler for a request, by the number of engines
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import virtual_time
from rich import box
from rich.console import Console
from rich.table import Table
from scheduler_cost import measure
from simulated_clients import Clients, Crowd, Key, affinity, pause_for
from simulated_cluster import Cluster, Engine, Served

from reverie.gateway.scheduling.rendezvous import Rendezvous
from reverie.gateway.serving.cluster import BUSY_INTERVAL
from reverie.load.figures import percentile

KEYS = tuple(Key(f"key-{n}", (1, 2, 4)[n % 3]) for n in range(24))
GREEDY = Key("greedy", 1)
FLOOD = 2.5
"""Requests under way for each slot of the cluster, where clients ask for more than there is."""


class Size(NamedTuple):
    """How much is simulated."""

    engines: int
    slots: int
    clients: int
    warm_up: float
    """Seconds before anything counts."""
    seconds: float
    seed: int

    @property
    def all_slots(self) -> int:
        return self.engines * self.slots

    def usual(self, load: float) -> Crowd:
        """Chats that use so much of all slots."""
        return Crowd(self.clients, KEYS, pause_for(load, self.clients, self.all_slots))


class Period:
    """What clients were given between two moments."""

    def __init__(
        self, served: Sequence[Served], begin: float, end: float, *, hits: dict[int, bool]
    ) -> None:
        self.served = [one for one in served if begin <= one.ended < end]
        self._hits = [hits[id(one)] for one in self.served if id(one) in hits]

    @property
    def hit_rate(self) -> float:
        """Turns that met the engine that served the turn before, of all that have one before."""
        return statistics.fmean(self._hits) if self._hits else 1.0

    def queued(self, p: float, of: Callable[[Served], bool] = lambda one: True) -> float:
        """A percentile of the seconds without a slot."""
        return percentile([one.queued for one in self.served if of(one)] or [0.0], p)

    def first_token(self, p: float) -> float:
        return percentile([one.first_token for one in self.served] or [0.0], p)

    @property
    def refused(self) -> int:
        return sum(one.refused for one in self.served)

    @property
    def failovers(self) -> int:
        return sum(one.failovers for one in self.served)

    def tokens(self) -> dict[str, int]:
        """What each key was served."""
        tokens: dict[str, int] = {}
        for one in self.served:
            turn = one.turn
            tokens[turn.key] = tokens.get(turn.key, 0) + turn.prompt + turn.answer
        return tokens


class Run(NamedTuple):
    """A simulation that has ended."""

    cluster: Cluster
    clients: Clients
    hits: dict[int, bool]
    """By the ``id`` of a later turn: whether it met the engine of the turn before."""
    period: Period
    """All after the warm-up."""
    used: float
    """Of all slots, after the warm-up."""
    cost: float
    """Microseconds of CPU that the scheduler took for a request."""


async def _run(
    size: Size,
    crowds: Iterable[Crowd],
    *,
    gateways: int = 1,
    shared_out: bool = False,
    told_every: float | None = None,
    fair: bool = True,
    with_affinity: bool = True,
) -> Run:
    random.seed(size.seed)
    cluster = Cluster(
        size.engines,
        size.slots,
        gateways=gateways,
        shared_out=shared_out,
        told_every=told_every,
        queue_size=2 * size.all_slots,
        fair=fair,
    )
    clients = Clients(cluster, size.seed, with_affinity=with_affinity)
    ticker = asyncio.create_task(cluster.note_output())
    for crowd in crowds:
        clients.add(crowd)
    await asyncio.sleep(size.warm_up)
    busy = sum(engine.busy for engine in cluster.engines)
    for gateway in cluster.gateways:
        gateway.spent = gateway.decisions = 0
    await asyncio.sleep(size.seconds)
    busy = sum(engine.busy for engine in cluster.engines) - busy
    spent = sum(gateway.spent for gateway in cluster.gateways)
    decisions = sum(gateway.decisions for gateway in cluster.gateways)
    await clients.end()
    for task in (ticker, *cluster.sharing):
        task.cancel()
    hits = find_hits(clients.served)
    period = Period(clients.served, size.warm_up, size.warm_up + size.seconds, hits=hits)
    used = busy / size.seconds / size.all_slots
    return Run(cluster, clients, hits, period, used, spent / max(decisions, 1) / 1e3)


def simulate(size: Size, *crowds: Crowd, **options: bool | float | None) -> Run:
    return virtual_time.run(_run(size, crowds, **options))  # type: ignore[arg-type]


def find_hits(served: Iterable[Served]) -> dict[int, bool]:
    """Whether each later turn met the engine, in the same life, that served the turn before."""
    homes: dict[str, tuple[Engine, int]] = {}
    hits = {}
    for one in served:
        home = one.engine, one.life
        conversation = one.turn.conversation
        if one.turn.number > 1:
            hits[id(one)] = homes[conversation] == home
        homes[conversation] = home
    return hits


def jain(values: Sequence[float]) -> float:
    """Jain's index of fairness: 1 where all are equal, 1/n where one has all."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


# The tables ------------------------------------------------------------------------------------


def routing(size: Size) -> Table:
    table = _table(
        "Affinity, beside the least loaded engine",
        *("load", "sent by", "slots used", "hit rate", "ideal", "queued p50", "p95", "p99"),
        *("first token p50", "p95", "µs a request"),
    )
    for load in (0.5, 0.75, 0.9):
        for name, with_affinity in (("affinity", True), ("least load", False)):
            run = simulate(size, size.usual(load), with_affinity=with_affinity)
            period = run.period
            table.add_row(
                f"{load:.2f}", name, f"{run.used:.2f}", f"{period.hit_rate:.3f}", "1.000",
                *_waits(period), _seconds(period.first_token(50)), _seconds(period.first_token(95)),
                f"{run.cost:.0f}",
            )  # fmt: skip
    return table


def fairness(size: Size) -> Table:
    table = _table(
        "Keys of weight 1, 2 and 4",
        *("asked", "served by", "Jain's index", "worst key", "greedy has", "slots used", "refused"),
        *("weight 1: p50", "p95", "p99", "weight 4: p50", "p95", "p99", "greedy: p50"),
    )
    usual = size.usual(0.6)
    beside = Crowd(int(FLOOD * size.all_slots), [GREEDY], 0)
    flood = Crowd(int(FLOOD * size.all_slots), KEYS, 0)
    alone = simulate(size, usual)
    rows = [
        ("usual", "weight", alone, False),
        ("usual, and a greedy key", "weight", simulate(size, usual, beside), False),
        ("usual, and a greedy key", "arrival",
         simulate(size, usual, beside, fair=False), False),
        ("all greedy", "weight", simulate(size, flood), True),
        ("all greedy", "arrival", simulate(size, flood, fair=False), True),
    ]  # fmt: skip
    for asked, how, run, all_greedy in rows:
        tokens = run.period.tokens()
        if all_greedy:
            fair_share = [tokens.get(key.name, 0) / key.weight for key in KEYS]
        else:  # what each had without a greedy key is what it asks for
            before = alone.period.tokens()
            fair_share = [tokens.get(key.name, 0) / before[key.name] for key in KEYS]
        worst = min(fair_share) / (statistics.fmean(fair_share) if all_greedy else 1)
        has_greedy = GREEDY.name in tokens
        table.add_row(
            asked, how, f"{jain(fair_share):.3f}", f"{worst:.2f}",
            f"{tokens[GREEDY.name] / sum(tokens.values()):.2f}" if has_greedy else "–",
            f"{run.used:.2f}", f"{run.period.refused:,}",
            *_waits(run.period, lambda one: one.turn.weight == 1 and one.turn.key != GREEDY.name),
            *_waits(run.period, lambda one: one.turn.weight == 4),
            _seconds(run.period.queued(50, lambda one: one.turn.key == GREEDY.name))
            if has_greedy else "–",
        )  # fmt: skip
    return table


def gateways(size: Size, counts: Sequence[int]) -> Table:
    load = 0.8
    table = _table(
        f"Gateways that share the engines, at a load of {load:.2f}",
        *("gateways", "told of others", "each uses", "hit rate", "agree", "slots used"),
        *("queued p50", "p95", "p99", "first token p95", "refused", "µs a request"),
    )
    told = f"every {BUSY_INTERVAL:g} s"
    ways = [("nothing", False, None), ("nothing", True, None), (told, False, BUSY_INTERVAL)]
    for count in counts:
        for known, shared_out, told_every in ways if count > 1 else [("–", False, None)]:
            run = simulate(
                size, size.usual(load), gateways=count,
                shared_out=shared_out, told_every=told_every,
            )  # fmt: skip
            slots = max(1, size.slots // count) if shared_out else size.slots
            period = run.period
            table.add_row(
                str(count), known, f"{slots} of {size.slots} slots", f"{period.hit_rate:.3f}",
                f"{agreement(run.cluster):.3f}", f"{run.used:.2f}", *_waits(period),
                _seconds(period.first_token(95)), f"{period.refused:,}", f"{run.cost:.0f}",
            )  # fmt: skip
    return table


def agreement(cluster: Cluster) -> float:
    """Of some conversations: for how many all gateways prefer the same engine."""
    homes = [Rendezvous(gateway.pool.states) for gateway in cluster.gateways]
    conversations = [affinity(f"agreement/{number}") for number in range(1000)]
    agree = [len({one.home_of(which).name for one in homes}) == 1 for which in conversations]
    return statistics.fmean(agree)


class Happened(NamedTuple):
    what: str
    at: float
    engines: frozenset[Engine]
    moved: float
    """Of all conversations, those whose preferred engine is another than before."""
    moved_needlessly: int
    """Conversations whose preferred engine changed from one that stays to another that stays."""


async def _happenings(size: Size) -> tuple[Clients, list[Happened]]:
    """All that may happen to engines, one after the other."""
    random.seed(size.seed)
    tenth = max(1, size.engines // 10)
    cluster = Cluster(size.engines, size.slots, spare=tenth, queue_size=2 * size.all_slots)
    clients = Clients(cluster, size.seed)
    ticker = asyncio.create_task(cluster.note_output())
    clients.add(size.usual(0.7))
    await asyncio.sleep(size.warm_up)
    engines, spare = cluster.engines[: size.engines], cluster.engines[size.engines :]
    one, many = engines[:1], engines[1 : 1 + tenth]
    happened = [Happened("nothing", asyncio.get_running_loop().time(), frozenset(), 0.0, 0)]
    await asyncio.sleep(size.seconds)
    for what, change, which in (
        ("one engine dies", cluster.kill, one),
        ("it is back", cluster.start, one),
        (f"{tenth} die at once", cluster.kill, many),
        ("they are back", cluster.start, many),
        (f"{tenth} more", cluster.start, spare),
    ):
        before = _homes(cluster)
        at = asyncio.get_running_loop().time()
        await change(which)
        after = _homes(cluster)
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a is not b]
        needless = sum(a not in which and b not in which for a, b in changed)
        happened.append(Happened(what, at, frozenset(which), len(changed) / len(before), needless))
        await asyncio.sleep(size.seconds)
    await clients.end()
    ticker.cancel()
    return clients, happened


def _homes(cluster: Cluster) -> list[Engine]:
    """The preferred engines of some conversations."""
    states = [state for state in cluster.gateways[0].pool.states if state.backend.ready]
    by_name = {engine.name: engine for engine in cluster.engines}
    homes = Rendezvous(states)
    return [by_name[homes.home_of(affinity(f"home/{n}")).name] for n in range(1000)]


def events(size: Size) -> Table:
    clients, happened = virtual_time.run(_happenings(size))
    hits = find_hits(clients.served)
    table = _table(
        f"What happens to engines, and the {size.seconds:g} s after it, at a load of 0.70",
        *("what", "conversations that move", "needlessly", "answers gone on with elsewhere"),
        *("served", "lost", "hit rate", "queued p50", "p95", "p99", "refused"),
    )
    for one in happened:
        period = Period(clients.served, one.at, one.at + size.seconds, hits=hits)
        table.add_row(
            one.what, f"{100 * one.moved:.1f} %", str(one.moved_needlessly),
            f"{period.failovers:,}", f"{len(period.served):,}",
            str(clients.asked - len(clients.served)), f"{period.hit_rate:.3f}", *_waits(period),
            f"{period.refused:,}",
        )  # fmt: skip
    return table


def cost(counts: Sequence[int], rounds: int) -> Table:
    table = _table(
        "CPU time of the scheduler for a request, µs",
        *("engines", "slots", "a conversation goes on", "a new one", "no affinity"),
        *("its engine is full", "all wait", "one engine has just failed"),
    )
    for engines in counts:
        found = measure(engines, 8, rounds)
        table.add_row(
            f"{engines:,}", f"{engines * 8:,}", *(f"{1e6 * value:,.1f}" for value in found)
        )
    return table


def _table(title: str, *heads: str) -> Table:
    table = Table(title=title)
    for head in heads:
        table.add_column(head, justify="left" if head in _WORDS else "right")
    return table


_WORDS = {"sent by", "asked", "served by", "what", "told of others", "each uses"}


def _waits(period: Period, of: Callable[[Served], bool] = lambda one: True) -> list[str]:
    return [_seconds(period.queued(p, of)) for p in (50, 95, 99)]


def _seconds(value: float) -> str:
    return f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--engines", type=int, default=100)
    add("--slots", type=int, default=8, help="requests that an engine runs at once (default: 8)")
    add("--clients", type=int, help="people who chat (default: 100 for each engine)")
    add("--gateways", type=int, nargs="+", default=[1, 2, 8], help="counts to compare")
    add("--seconds", type=float, help="that count in each simulation (default: 60)")
    add("--seed", type=int, default=1)
    add("--tables", nargs="+", help="only these (default: all)")
    add("--quick", action="store_true", help="a tenth of everything: a first look")
    add("--markdown", action="store_true", help="print the tables for a page of documentation")
    given = parser.parse_args()
    engines = max(2, given.engines // 10) if given.quick else given.engines
    size = Size(
        engines=engines,
        slots=given.slots,
        clients=given.clients or 100 * engines,
        warm_up=60 if given.quick else 100,
        seconds=given.seconds or 60,
        seed=given.seed,
    )
    counts = [10, 100] if given.quick else [10, 100, 1000]
    tables: dict[str, Callable[[], Table]] = {
        "routing": lambda: routing(size),
        "fairness": lambda: fairness(size),
        "gateways": lambda: gateways(size, given.gateways),
        "events": lambda: events(size),
        "cost": lambda: cost(counts, 100 if given.quick else 400),
    }
    logging.getLogger("reverie.backends").setLevel(logging.ERROR)
    console = Console(width=None if not given.markdown else 400)
    console.print(
        f"{size.engines:,} engines of {size.slots} slots, {size.clients:,} clients, "
        f"{len(KEYS)} keys, seed {size.seed}; times in seconds"
    )
    for name in given.tables or tables:
        table = tables[name]()
        if given.markdown:
            table.box = box.MARKDOWN
        console.print(table)


if __name__ == "__main__":
    main()
