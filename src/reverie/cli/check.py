"""``reverie check``: what ``reverie serve`` would run with the same options, or what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reverie.cli.options import AiModels, Config, Host, Model, NoAuth, Ollama, Port, settings_of
from reverie.cli.stores import left_behind, whereabouts
from reverie.errors import ClusterError, ConfigurationError, ModelError, StoreFailure
from reverie.settings import CONFIG_FILE, ClusterSettings, ModelSettings, Settings

if TYPE_CHECKING:
    from reverie.gateway.accounts.store import Store


def check(
    host: Host = None,
    port: Port = None,
    config: Config = None,
    model: Model = None,
    no_auth: NoAuth = None,
    ai_models: AiModels = None,
    ollama: Ollama = None,
    live_runner: Annotated[
        bool,
        typer.Option(
            "--live-runner",
            help="Write a Livepeer orchestrator's -liveRunnerConfig to standard output, in which "
            "this server is a runner: reverie check --live-runner > runners.json.",
        ),
    ] = False,
    runner_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="With --live-runner: where the orchestrator reaches this server; default: the "
            "address to listen on.",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="With --live-runner: what the runners' labels begin with; each model's name "
            "follows [reverie]. Each server of an orchestrator needs its own.",
        ),
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(
            metavar="AMOUNT",
            help="With --live-runner: what a request costs there, as in 0.002USD, or an hour of "
            "one, as in 3.50USD/hour; default: what 1000 tokens of prompt and 1000 of answer cost "
            "here.",
        ),
    ] = None,
) -> None:
    """Say what `serve` would run with the same options. Exits with 1 and every mistake in them."""
    from reverie.live_runners import DEFAULT_LABEL, Wishes, describe

    if not live_runner and (runner_url, label, price) != (None, None, None):
        raise ConfigurationError(
            ["command line: --runner-url, --label and --price need --live-runner"]
        )
    say = _tell if live_runner else typer.echo  # standard output is for the file then
    settings, keyless = _check(host, port, config, model, no_auth, ai_models, ollama, say=say)
    if live_runner:
        wishes = Wishes(runner_url, DEFAULT_LABEL if label is None else label, price)
        found = describe(settings, wishes, keyless=keyless)
        for sentence in found.remarks:
            _warn(sentence)
        typer.echo(found.json)


def _check(
    host: str | None,
    port: int | None,
    config: Path | None,
    model: str | None,
    no_auth: bool | None,
    ai_models: Path | None,
    ollama: bool | None,
    *,
    say: Callable[[str], None],
) -> tuple[Settings, bool]:
    """Say what these options would run; give the settings, and whether callers need no key.

    Raises:
        ConfigurationError: with every mistake that was found.
    """
    from reverie.addresses import OLLAMA_HOST, OLLAMA_PORT, own_backends, require_keys
    from reverie.app import authenticator, open_store

    settings = settings_of(host, port, config, model, no_auth, ai_models, ollama, remark=_warn)
    problems: list[str] = []
    if sentence := left_behind(settings.store):
        _warn(sentence)
    keyless = False
    accounts = None
    try:
        store = open_store(settings)
        keys = authenticator(settings, store)
        keys.check_store()
        if store is not None:
            store.require_creatable()
        keyless = keys.open
        require_keys(settings.server, keyless=keyless)
        callers = "callers without a key" if keyless else "callers with a key"
        address = f"{settings.server.host} port {settings.server.port}"
        if ollama:
            address += f" and {OLLAMA_HOST} port {OLLAMA_PORT}"
        say(f"Would listen on {address}, for {callers}.")
        accounts = whereabouts(settings.store) + ("" if store is None else _upgrade_of(store))
    except ConfigurationError as error:
        problems += error.problems
    except StoreFailure as failure:
        problems.append(f"store.url: the store can't be used: {failure}")
    for index, served in enumerate(settings.models):
        found = _problems_of(served, settings)
        if ai_models is not None:
            where = f"{ai_models}: {served.name}"
        else:
            where = "command line: model" if model else f"{config or CONFIG_FILE}: models[{index}]"
        problems += [f"{where}.{problem}" for problem in found]
        if not found:
            say(f"Model {served.name}: {_describe(served, settings)}")
    if settings.cluster is not None:
        problems += _cluster_problems(settings.cluster, config or Path(CONFIG_FILE), say)
    if accounts is not None:
        say(f"Accounts: {accounts}")
    problems += _traces_problems(settings, say)
    for sentence in own_backends(settings):
        _warn(sentence)
    problems += _memory_problems(settings)
    if problems:
        raise ConfigurationError(problems)
    return settings, keyless


def _upgrade_of(store: Store) -> str:
    """What a start would do to an older store, as the end of the sentence that names it."""
    from reverie.gateway.accounts.upkeep import HEAD, revision

    before = revision(store)
    if before in (None, HEAD):
        return ""
    return f", which will be migrated from revision {before} to {HEAD}: see reverie migrate --plan"


def _tell(sentence: str) -> None:
    typer.echo(sentence, err=True)


def _warn(sentence: str) -> None:
    typer.echo(f"warning: {sentence}", err=True)


def _problems_of(model: ModelSettings, settings: Settings) -> list[str]:
    """The key and the reason of each mistake that keeps a model from being served."""
    if model.source is None:
        return asyncio.run(_backend_problems(model, settings))
    from reverie.models.gguf import read_header
    from reverie.models.reference import parse
    from reverie.models.store import find
    from reverie.runner.options import XLLAMACPP

    if model.engines:  # its file and its program are wanted on other machines
        try:
            parse(model.source)
        except ModelError as error:
            return [f"source: {error}"]
        return []
    problems = []
    try:
        if (found := find(model.source)) is not None:
            read_header(found)
    except ModelError as error:
        problems.append(f"source: {error}")
    if model.engine != XLLAMACPP and shutil.which(Path(model.engine).expanduser()) is None:
        problems.append(f"engine: {model.engine} is not a program that can be run")
    return problems


def _cluster_problems(
    cluster: ClusterSettings, file: Path, say: Callable[[str], None]
) -> list[str]:
    """Say what the cluster has, or give why a gateway couldn't use it from this machine."""
    from reverie.cli.cluster_view import ask

    try:
        view = ask(cluster, lambda manager: manager.overview())
    except ClusterError as error:
        return [f"{file}: cluster.address: {error}"]
    except ConfigurationError as error:
        return [f"{file}: cluster.token_file: {problem}" for problem in error.problems]
    living = [machine for machine in view.machines if machine.alive]
    room = sum(machine.slots for machine in living)
    say(
        f"Cluster: {cluster.address}, with Reverie {view.reverie}. "
        f"Machines: {len(living)}. Engines that they have room for: {room}."
    )
    return []


def _traces_problems(settings: Settings, say: Callable[[str], None]) -> list[str]:
    """Say where traces are sent, or give why they can't be."""
    from reverie.gateway.traces.tracer import tracer_of

    try:
        tracer = tracer_of(settings.traces, os.environ)
    except ConfigurationError as error:
        return list(error.problems)
    if tracer is not None:
        say(f"Traces: sent to {tracer.exporter.url}")
    return []


def _memory_problems(settings: Settings) -> list[str]:
    """Why the models that run here, of those on disk, don't fit into the memory budget."""
    from reverie.gateway.serving.memory_budget import MIB, budget_problems
    from reverie.models.store import find
    from reverie.runner.supervisor import Runner

    needs: dict[str, int] = {}
    for model in settings.models:
        with contextlib.suppress(ModelError):  # reported already
            if model.source is None or model.engines:
                continue
            if (found := find(model.source)) is not None:
                runner = Runner(model.name, found, model)
                asyncio.run(runner.check())
                needs[model.name] = runner.memory
    warm = {model.name for model in settings.models if model.warm}
    return budget_problems(settings.server.memory_budget_mib * MIB, needs, warm)


async def _backend_problems(model: ModelSettings, settings: Settings) -> list[str]:
    """Start the backends, which reads their keys and doesn't connect to any of them."""
    from reverie.backends.build import backends_of
    from reverie.gateway.serving.defaults import require_honoured

    problems = []
    backends = backends_of(model, settings.server)
    try:
        require_honoured(model, backends)
    except ModelError as error:
        problems.append(f"defaults: {error}")
    for index, backend in enumerate(backends):
        try:
            await backend.start(lambda: None)
        except ModelError as error:
            problems.append(f"backends[{index}]: {error}")
        finally:
            await backend.stop()
    return problems


def _describe(model: ModelSettings, settings: Settings) -> str:
    """Where a model runs, and whether it is on disk."""
    if model.engine_bounds is not None and settings.cluster is not None:
        least, most = model.engine_bounds
        engines = f"{most} engine{'s' if most > 1 else ''}"
        count = engines if least == most else f"{least} to {engines}"
        each = f"each with {model.slots} slots" + (
            f" and {model.gpus:g} GPUs" if model.gpus else ""
        )
        return f"{count} in the cluster at {settings.cluster.address}, {each}"
    if model.source is None:
        from reverie.backends.client.address import public_url

        return "reached at " + ", ".join(public_url(backend.url) for backend in model.backends)
    from reverie.models.store import find

    found = find(model.source)
    state = "on disk" if found else f"will be fetched first (reverie pull {model.source})"
    loaded = "" if model.warm else ", loaded when it is asked for"
    return f"run here by {model.engine}, {model.slots} slots, {state}{loaded}"
