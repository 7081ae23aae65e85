"""``reverie cluster head`` and ``join``: this machine as a part of a cluster."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from reverie.errors import ConfigurationError
from reverie.settings import CLUSTER_PORT, ClusterSettings
from reverie.text import in_url

if TYPE_CHECKING:
    from reverie.cluster.node_messages import Event
    from reverie.cluster.node_options import NodeOptions, Ports
    from reverie.cluster.tls import TlsFiles

_GIB = 1024**3
_CORES_PER_ENGINE = 4
_SHARE_FOR_ENGINES = 0.9

TokenFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The cluster's token; default: what REVERIE_CLUSTER_TOKEN holds, else a file in the "
        "state directory.",
    ),
]
_Host = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="This machine's address, which the others reach; default: the one on the way to them.",
    ),
]
_Engines = Annotated[
    int | None,
    typer.Option(min=0, max=1000, metavar="N", help="How many engines may run here at once."),
]
_Gpus = Annotated[
    int | None,
    typer.Option(min=0, max=64, metavar="N", help="GPUs that engines may use; default: all."),
]
_Memory = Annotated[
    float | None,
    typer.Option(
        min=0.1, metavar="GIB", help="Memory that engines may use; default: nine tenths of it."
    ),
]
_PortRange = Annotated[
    str | None,
    typer.Option("--ports", metavar="FIRST-LAST", help="Where Ray listens [6380-6499]."),
]
_EnginePorts = Annotated[
    str | None, typer.Option(metavar="FIRST-LAST", help="Where engines listen [20000-20099].")
]
_Cert = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="With --tls-key and --tls-ca, given on every machine: all of the cluster speaks TLS. "
        "This machine's certificate, for its address.",
    ),
]
_Key = Annotated[Path | None, typer.Option(metavar="FILE", help="The key of --tls-cert.")]
_Authority = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="What signed the certificates of all machines."),
]


class Storage(StrEnum):
    """Where a head keeps what it knows."""

    ROCKSDB = "rocksdb"
    NONE = "none"


def head(
    host: _Host = None,
    port: Annotated[
        int, typer.Option(min=1024, max=65535, help="Where other machines reach the head.")
    ] = CLUSTER_PORT,
    engines: _Engines = None,
    gpus: _Gpus = None,
    memory: _Memory = None,
    storage: Annotated[
        Storage,
        typer.Option(
            help="Where it keeps what it knows. With none, a restart of the head starts all "
            "engines anew."
        ),
    ] = Storage.ROCKSDB,
    token_file: TokenFile = None,
    ports: _PortRange = None,
    engine_ports: _EnginePorts = None,
    tls_cert: _Cert = None,
    tls_key: _Key = None,
    tls_ca: _Authority = None,
) -> None:
    """Start a cluster: run its head on this machine, until Ctrl-C or SIGTERM.

    The first start makes the cluster's token, which the other machines need. Engines run here only
    with --engines: they end with the head.

    Example: reverie cluster head --host 10.0.0.1
    """
    from reverie.cluster.node_checks import own_address
    from reverie.cluster.token import make_token

    require_ray_here()
    address = own_address(host)
    made = False
    if token_file is not None or "REVERIE_CLUSTER_TOKEN" not in os.environ:
        made = make_token(token_file)
    options = _options(
        address,
        f"{in_url(address)}:{port}",
        is_head=True,
        engines=engines or 0,
        gpus=gpus,
        memory=memory,
        ports=ports,
        engine_ports=engine_ports,
        tls=_tls(tls_cert, tls_key, tls_ca),
        storage=_storage_folder() if storage is Storage.ROCKSDB else None,
    )
    _run(options, token_file, lambda: _say_how_to_join(options, token_file, made))


def join(
    where: Annotated[str, typer.Argument(metavar="HOST[:PORT]", help="The head, as it prints it.")],
    host: _Host = None,
    engines: _Engines = None,
    gpus: _Gpus = None,
    memory: _Memory = None,
    token_file: TokenFile = None,
    ports: _PortRange = None,
    engine_ports: _EnginePorts = None,
    tls_cert: _Cert = None,
    tls_key: _Key = None,
    tls_ca: _Authority = None,
) -> None:
    """Make this machine a part of a cluster, until Ctrl-C or SIGTERM.

    Unless --engines says otherwise, one engine may run on each GPU, or on each four cores where
    there is none. A gateway's machine joins, too: with --engines 0 if no engine is to run there.

    Example: reverie cluster join 10.0.0.1 --engines 2
    """
    from reverie.cluster.node_checks import own_address, resolve

    require_ray_here()
    name, _, port = head_address(where, "HOST").rpartition(":")
    resolved = resolve(name)
    address = own_address(host, resolved)
    head = f"{in_url(resolved)}:{port}"
    options = _options(
        address,
        head,
        is_head=False,
        engines=engines,
        gpus=gpus,
        memory=memory,
        ports=ports,
        engine_ports=engine_ports,
        tls=_tls(tls_cert, tls_key, tls_ca),
        storage=None,
    )
    _run(options, token_file, lambda: _say_joined(options))


def require_ray_here() -> None:
    """
    Raises:
        ConfigurationError: this installation can't be part of a cluster.
    """
    from reverie.cluster.node_checks import require_linux, require_ray

    require_ray()
    require_linux()


def head_address(written: str, option: str) -> str:
    """``HOST:PORT`` of ``HOST[:PORT]``.

    Raises:
        typer.BadParameter: it is none.
    """
    from pydantic import ValidationError

    try:
        return ClusterSettings(address=written).address
    except ValidationError:
        raise typer.BadParameter(
            "write HOST or HOST:PORT, such as 10.0.0.1:6379", param_hint=f"'{option}'"
        ) from None


# Options ----------------------------------------------------------------------------------


def _options(
    host: str,
    head: str,
    *,
    is_head: bool,
    engines: int | None,
    gpus: int | None,
    memory: float | None,
    ports: str | None,
    engine_ports: str | None,
    tls: TlsFiles | None,
    storage: str | None,
) -> NodeOptions:
    """
    Raises:
        ConfigurationError: something can't be as it was asked for.
    """
    from reverie.cluster.node_checks import require_free
    from reverie.cluster.node_options import ENGINE_PORTS, RAY_PORTS, NodeOptions
    from reverie.runner.gpus import count
    from reverie.runner.resources import usable_memory

    gpus = asyncio.run(count()) if gpus is None else gpus
    options = NodeOptions(
        host=host,
        head=head,
        is_head=is_head,
        folder="",
        engines=_default_engines(gpus) if engines is None else engines,
        gpus=gpus,
        memory=int(memory * _GIB if memory else usable_memory() * _SHARE_FOR_ENGINES),
        ports=_range(ports, "--ports", RAY_PORTS),
        engine_ports=_range(engine_ports, "--engine-ports", ENGINE_PORTS),
        storage=storage,
        tls=tls,
    )
    if problems := options.problems():
        raise ConfigurationError(problems)
    _check_certificate(options)
    require_free(options)
    return options


def _check_certificate(options: NodeOptions) -> None:
    """
    Raises:
        ConfigurationError: with its certificate nobody would reach this machine.
    """
    from reverie.cluster.tls import check
    from reverie.errors import ModelError

    if options.tls is None:
        return
    try:
        check(options.tls, options.host)
    except ModelError as error:
        raise ConfigurationError([f"--tls-cert: {str(error).rstrip('.')}"]) from None


def _default_engines(gpus: int) -> int:
    from reverie.runner.resources import usable_cores

    return gpus or max(1, usable_cores() // _CORES_PER_ENGINE)


def _range(written: str | None, option: str, default: Ports) -> Ports:
    from reverie.cluster.node_options import Ports

    if written is None:
        return default
    try:
        return Ports.parse(written)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=f"'{option}'") from None


def _tls(certificate: Path | None, key: Path | None, authority: Path | None) -> TlsFiles | None:
    """
    Raises:
        ConfigurationError: only some of the files are given, or one can't be read.
    """
    from reverie.cluster.tls import TlsFiles

    files = {"--tls-cert": certificate, "--tls-key": key, "--tls-ca": authority}
    given = {option: file.absolute() for option, file in files.items() if file is not None}
    if not given:
        return None
    problems = [f"{option}: is missing: all three are given" for option in files.keys() - given]
    problems += [
        f"{option}: {file} can't be read"
        for option, file in given.items()
        if not (file.is_file() and os.access(file, os.R_OK))
    ]
    if problems:
        raise ConfigurationError(sorted(problems))
    return TlsFiles(*map(str, given.values()))


def _storage_folder() -> str:
    from reverie.paths import make_folder, state_directory

    folder = (state_directory() / "cluster" / "head").absolute()
    try:
        make_folder(folder)
    except OSError as error:
        raise ConfigurationError([f"{folder}: can't be made: {error.strerror}"]) from None
    return str(folder)


# Running ----------------------------------------------------------------------------------


def _run(options: NodeOptions, token_file: Path | None, on_started: Callable[[], None]) -> None:
    """Run until it ends, and exit with its status.

    Raises:
        ConfigurationError: it can't be started.
    """
    import msgspec

    from reverie.cluster.membership import remember
    from reverie.cluster.node_folder import node_folder
    from reverie.cluster.node_messages import Failed, HeadBack, HeadLost, PartDied, Started
    from reverie.cluster.node_process import NodeProcess
    from reverie.cluster.token import exposed_token, read_token

    failed: list[str] = []

    def on_event(event: Event) -> None:
        match event:
            case Started():
                remember(_membership(options, token_file))
                on_started()
                typer.echo(f"Ray's logs are in {event.logs}. Ctrl-C ends it.")
            case Failed():
                failed.append(event.why)
            case HeadLost():
                _warn(
                    "the head doesn't answer any more: engines here go on, and none is added or "
                    "replaced until it is back. After 10 minutes without it they end."
                )
            case HeadBack():
                typer.echo("The head answers again.")
            case PartDied():
                failed.append(f"{event.parts} has ended, and with it all of this machine's engines")

    environment = options.environment(read_token(token_file), os.environ)
    if (file := exposed_token(token_file, os.environ)) is not None:
        _warn(
            f"{file}: every user of this machine may read the token, and so run programs on all "
            f"machines of the cluster: chmod 600 {file}"
        )
    with node_folder(options.ports.first) as folder:
        options = msgspec.structs.replace(options, folder=str(folder))
        log = folder / "start.log"
        status = NodeProcess(options, environment, log).run(on_event)
    if failed:
        raise ConfigurationError(failed)
    raise typer.Exit(status)


def _membership(options: NodeOptions, token_file: Path | None) -> ClusterSettings:
    files = dict(zip(("tls_cert", "tls_key", "tls_ca"), map(Path, options.tls or ()), strict=False))
    token = None if token_file is None else token_file.absolute()
    return ClusterSettings(address=options.head, token_file=token, **files)


def _say_how_to_join(options: NodeOptions, token_file: Path | None, made: bool) -> None:
    from reverie.cluster.token import TOKEN_VARIABLE, default_token_file

    file = token_file
    if file is None and TOKEN_VARIABLE not in os.environ:
        file = default_token_file()
    where = TOKEN_VARIABLE if file is None else str(file)
    fresh = " It is new." if made else ""
    port = "" if options.head_port == CLUSTER_PORT else f":{options.head_port}"
    show = "" if token_file is None else f" --token-file {token_file}"
    tls = " --tls-cert FILE --tls-key FILE --tls-ca FILE" if options.tls else ""
    keys = "".join(f'  {key} = "FILE"\n' for key in ("tls_cert", "tls_key", "tls_ca") if tls)
    typer.echo(
        f"The head of the cluster runs at {options.head}.\n"
        f"Its token is in {where}, and `reverie cluster token{show}` prints it.{fresh}\n\n"
        "On each other machine, with this token in "
        f"{TOKEN_VARIABLE} or the same file:\n"
        f"  reverie cluster join {in_url(options.host)}{port}{tls}\n\n"
        "In the reverie.toml of each gateway:\n"
        "  [cluster]\n"
        f'  address = "{options.head}"\n{keys}'
    )


def _say_joined(options: NodeOptions) -> None:
    typer.echo(
        f"This machine, {options.host}, is part of the cluster of {options.head}. "
        f"Engines that may run here: {options.engines}, "
        f"with {options.memory / _GIB:.1f} GiB of memory and {options.gpus} GPUs."
    )


def _warn(sentence: str) -> None:
    typer.echo(f"warning: {sentence}", err=True)
