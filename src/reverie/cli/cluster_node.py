"""``reverie cluster head`` and ``join``: this machine as a part of a cluster."""

from __future__ import annotations

import asyncio
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from reverie.errors import ConfigurationError
from reverie.settings import CLUSTER_PORT

if TYPE_CHECKING:
    from reverie.cluster.node_messages import Event
    from reverie.cluster.node_options import NodeOptions, Ports

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

    _require_ray()
    address = own_address(host)
    made = False
    if token_file is not None or "REVERIE_CLUSTER_TOKEN" not in os.environ:
        made = make_token(token_file)
    options = _options(
        address,
        f"{_bracketed(address)}:{port}",
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
    where: Annotated[
        str, typer.Argument(metavar="HOST[:PORT]", help="The head, as it prints it.")
    ],
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
    from reverie.cluster.node_checks import own_address, require_head, resolve
    from reverie.settings import ClusterSettings

    _require_ray()
    written = _address(ClusterSettings, where)
    name, _, port = written.rpartition(":")
    resolved = resolve(name)
    address = own_address(host, resolved)
    head = f"{_bracketed(resolved)}:{port}"
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
    require_head(head)
    _run(options, token_file, lambda: _say_joined(options))
