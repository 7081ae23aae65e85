"""``reverie cluster status``, ``drain`` and ``resume``: the cluster as its manager sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeAlias, TypeVar

import typer

from reverie.cli.accounts import AsJson, print_json
from reverie.cli.cluster_lines import counted
from reverie.cli.cluster_node import TokenFile, head_address, require_ray_here
from reverie.cli.tables import print_rows
from reverie.errors import ClusterError, ConfigurationError
from reverie.settings import ClusterSettings, load

if TYPE_CHECKING:
    from reverie.cluster.messages import Engine, Machine, ModelStatus, View

_GIB = 1024**3
_LOOK_EVERY = 0.5

Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        envvar="REVERIE_CONFIG",
        help="The file whose [cluster] names the head; default: reverie.toml, if it is here.",
    ),
]
_Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST[:PORT]",
        help="The head; default: that of [cluster], else the one that this machine is a part of.",
    ),
]
_Machine = Annotated[
    str, typer.Argument(metavar="MACHINE", help="Its address, as `reverie cluster status` has it.")
]

T = TypeVar("T")


class Manager(Protocol):
    """The part of ``RemoteManager`` that is used here."""

    async def overview(self) -> View: ...

    async def drain(self, machine: str, draining: bool) -> None: ...


def status(
    as_json: AsJson = False,
    address: _Address = None,
    token_file: TokenFile = None,
    config: Config = None,
) -> None:
    """Say how the cluster is doing: its machines, its engines, and which models lack any, and why.

    It is asked from a machine that is a part of it.

    Example: reverie cluster status --json
    """
    view = ask(_settings(address, token_file, config), lambda manager: manager.overview())
    if as_json:
        print_json(shown(view))
    else:
        print_view(view)


def drain(
    machine: _Machine,
    timeout: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="How long to wait until no engine is left there."
        ),
    ] = 600.0,
    undo: Annotated[
        bool, typer.Option("--undo", help="Let the machine have engines again: as `resume`.")
    ] = False,
    address: _Address = None,
    token_file: TokenFile = None,
    config: Config = None,
) -> None:
    """Take a machine's engines away without ending an answer, before it is stopped or upgraded.

    Others are started elsewhere where there is room; none is started here, until `resume`. Exits
    with 1 if engines are left after the timeout. The drain goes on then.

    Example: reverie cluster drain 10.0.0.2
    """
    settings = _settings(address, token_file, config)
    if undo:
        ask(settings, lambda manager: put_back(manager, machine))
    else:
        ask(settings, lambda manager: empty(manager, machine, timeout))


def resume(
    machine: _Machine,
    address: _Address = None,
    token_file: TokenFile = None,
    config: Config = None,
) -> None:
    """Let a machine that was drained have engines again.

    Example: reverie cluster resume 10.0.0.2
    """
    settings = _settings(address, token_file, config)
    ask(settings, lambda manager: put_back(manager, machine))


# Asking the manager -----------------------------------------------------------------------


def _settings(address: str | None, token_file: Path | None, config: Path | None) -> ClusterSettings:
    """Where the cluster is.

    Raises:
        ConfigurationError: nothing says it.
    """
    from reverie.cluster.membership import remembered

    require_ray_here()
    found = load(config).cluster or remembered()
    changed: dict[str, Any] = {} if token_file is None else {"token_file": token_file}
    if address is not None:
        changed["address"] = head_address(address, "--address")
        found = found or ClusterSettings(address=address)
    if found is None:
        raise ConfigurationError(
            ["--address: which cluster? Give its head, or write [cluster] in reverie.toml"]
        )
    return found.model_copy(update=changed)


def ask(settings: ClusterSettings, work: Callable[[Manager], Awaitable[T]]) -> T:
    """Do something with the manager.

    Raises:
        ClusterError: it can't be reached.
        ConfigurationError: there is no token.
    """
    from reverie.cluster.connection import ManagerAway, connect
    from reverie.cluster.tls import TlsFiles
    from reverie.cluster.token import read_token

    token = read_token(settings.token_file)

    async def run() -> T:
        from reverie.cluster.remote_manager import RemoteManager  # Ray's variables are set now

        return await work(await RemoteManager.find())

    with _ray_unheard():
        connect(settings.address, token, TlsFiles.of(settings))
        try:
            return asyncio.run(run())
        except ManagerAway as error:
            raise ClusterError(str(error)) from None


@contextmanager
def _ray_unheard() -> Generator[None, None, None]:
    """Let only this program write to the terminal: Ray does, whatever it is told."""
    out, err = os.dup(1), os.dup(2)
    with open(os.devnull, "wb") as nowhere, contextlib.ExitStack() as stack:
        stack.callback(os.close, out)
        stack.callback(os.close, err)
        if sys.stdout is sys.__stdout__:
            ours = os.fdopen(os.dup(out), "w", buffering=1)
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(ours)))
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
        try:
            yield
        finally:
            os.dup2(out, 1)
            os.dup2(err, 2)


# Draining ---------------------------------------------------------------------------------


async def empty(manager: Manager, name: str, timeout: float) -> None:
    """Drain a machine, and tell how far it is, until it has no engine.

    Raises:
        ConfigurationError: there is no such machine.
        ClusterError: it has engines when the time is up.
    """
    address = machine_of(await manager.overview(), name).address
    await manager.drain(address, True)
    end = time.monotonic() + timeout
    told = ""
    while left := engines_on(await manager.overview(), address):
        if (now := ", ".join(one.name for one in left)) != told:
            told = now
            typer.echo(f"{address} has {counted(len(left), 'engine')}: {now}")
        if time.monotonic() >= end:
            raise ClusterError(
                f"{address} still has {counted(len(left), 'engine')} after {timeout:g} s: they are "
                "finishing answers, or no other machine has room. It gets no new ones; run this "
                f"again to wait, or `reverie cluster resume {address}`."
            )
        await asyncio.sleep(_LOOK_EVERY)
    typer.echo(
        f"{address} has no engine, and gets none: its `reverie cluster join` may be ended. "
        f"To use it again: reverie cluster resume {address}"
    )


async def put_back(manager: Manager, name: str) -> None:
    """
    Raises:
        ClusterError: there is no such machine, and none drained before it was shut down.
    """
    await manager.drain(name, False)
    typer.echo(f"{name} may have engines again.")


def machine_of(view: View, name: str) -> Machine:
    """
    Raises:
        ConfigurationError: there is none with this address or id.
    """
    for machine in view.machines:
        if name in (machine.address, machine.id):
            return machine
    known = ", ".join(sorted(machine.address for machine in view.machines)) or "none"
    raise ConfigurationError([f"MACHINE: there is no {name} here. The machines are: {known}"])


def engines_on(view: View, address: str) -> list[Engine]:
    return [engine for engine in view.engines if engine.machine == address]


# Printing ---------------------------------------------------------------------------------


def shown(view: View) -> dict[str, Any]:
    """A view as JSON, without the keys of engines."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(view)
    for engine in found["engines"]:
        del engine["info"]["key"]
    return found


def print_view(view: View) -> None:
    typer.echo(
        f"The manager runs Reverie {view.reverie or 'of an unknown version'}. "
        f"{counted(view.gateways, 'gateway')} reported in the last seconds."
    )
    if not view.complete:
        typer.echo("It has just started, and may not know all engines yet.")
    typer.echo()
    print_rows(
        ["machine", "state", "engines", "GPUs free", "memory free"],
        [_machine_row(view, machine) for machine in view.machines],
        right=("engines", "GPUs free", "memory free"),
    )
    typer.echo()
    if not view.models:
        typer.echo("No gateway has asked for a model yet.")
        return
    print_rows(
        ["model", "ready", "wanted", "bounds", "running", "waiting", "why not more"],
        [_model_row(view, model) for model in view.models],
        right=("ready", "wanted", "running", "waiting"),
    )
    typer.echo()
    print_rows(
        ["engine", "machine", "state", "slots", "context", "why"],
        [_engine_row(engine) for engine in view.engines],
        right=("slots", "context"),
    )


def _machine_row(view: View, machine: Machine) -> list[str]:
    engines = len(engines_on(view, machine.address))
    return [
        machine.address,
        machine.state,
        f"{engines}/{machine.slots}",
        f"{machine.free_gpus:g}/{machine.gpus:g}",
        f"{machine.free_memory / _GIB:.1f}/{machine.memory / _GIB:.1f} GiB",
    ]


def _model_row(view: View, model: ModelStatus) -> list[str]:
    ready = sum(one.model == model.model and one.step == "ready" for one in view.engines)
    bounds = f"{model.least}-{model.most}" if model.least != model.most else f"{model.least}"
    counts = (ready, model.wanted, bounds, model.in_flight, model.waiting)
    return [model.model, *map(str, counts), model.why]


def _engine_row(engine: Engine) -> list[str]:
    info = engine.info
    return [
        engine.name,
        engine.machine,
        engine.step,
        str(info.slots or ""),
        str(info.context or ""),
        info.why,
    ]
