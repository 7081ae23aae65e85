"""The rules of docs/architecture.md that a program can check: which module may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src"

LAYERS = (
    ("cli", "__main__"),
    ("workers",),
    ("server", "app"),
    ("reload", "load"),
    ("http",),
    ("gateway",),
    ("cluster",),
    ("backends", "store"),
    ("runner", "ai_models", "live_runners"),
    ("models", "addresses"),
    ("settings",),
)
"""Top-level names under ``reverie``, from the top down. A module imports from its own layer and
from those below. What isn't listed lies under all of them, and imports none."""


def modules() -> dict[str, Path]:
    found = {}
    for path in (SOURCE / "reverie").rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports_of(module: str) -> Iterator[str]:
    """The modules of ours that a module imports, also inside its functions."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def top(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def layer(module: str) -> int:
    for height, names in enumerate(reversed(LAYERS), start=1):
        if top(module) in names:
            return height
    return 0


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_one_way(module: str) -> None:
    if top(module) == "testing":  # stands beside the product, and uses what lies under all
        assert all(layer(other) == 0 for other in imports_of(module))
        return
    for other in imports_of(module):
        assert layer(other) <= layer(module), f"{module} imports {other}"
        assert top(other) != "testing", f"{module} imports {other}"


def test_no_module_imports_itself_over_others() -> None:
    graph = {
        module: {other for other in imports_of(module) if other != module} for module in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"an import circle: {' → '.join(error.args[1])}")


def of(*packages: str) -> list[str]:
    return [module for module in sorted(MODULES) if top(module) in packages]


@pytest.mark.parametrize("module", of("cli", "http"))
def test_the_store_is_reached_through_the_accounts_alone(module: str) -> None:
    assert not [other for other in imports_of(module) if top(other) == "store"]


@pytest.mark.parametrize("module", of("http"))
def test_http_knows_nothing_of_backends(module: str) -> None:
    assert not [other for other in imports_of(module) if top(other) == "backends"]


@pytest.mark.parametrize("module", of("backends"))
def test_backends_know_nothing_of_the_store(module: str) -> None:
    assert not [other for other in imports_of(module) if top(other) == "store"]


@pytest.mark.parametrize("module", of("store"))
def test_the_store_knows_nothing_of_backends(module: str) -> None:
    assert not [other for other in imports_of(module) if top(other) == "backends"]


TESTED_ELSEWHERE = {
    "app.py": "http/test_generate.py",
    "backends/base.py": "backends/test_http.py",
    "backends/encoding/images.py": "backends/encoding/test_kinds.py",
    "backends/headers.py": "backends/test_http.py",
    "backends/passage.py": "backends/test_http.py",
    "backends/tasks.py": "http/tasks/test_route.py",
    "cli/accounts.py": "cli/test_keys.py",
    "cli/cluster.py": "cli/test_cluster_node.py",
    "cluster/node.py": "cli/test_cluster_node.py",
    "cluster/node_messages.py": "cli/test_cluster_node.py",
    "cluster/node_process.py": "cli/test_cluster_node.py",
    "cli/restore.py": "cli/test_backup.py",
    "cli/row_progress.py": "cli/test_backup.py",
    "cli/bench_report.py": "cli/test_bench.py",
    "cli/bench_run.py": "cli/test_bench.py",
    "cli/key_output.py": "cli/test_keys.py",
    "cluster/launcher.py": "cluster/test_manager.py",
    "cluster/messages.py": "cluster/test_manager.py",
    "errors.py": "test_docs.py",
    "pending.py": "http/connection/test_stream_writer.py",
    "prompt_bounds.py": "test_request.py",
    "cluster/link.py": "cluster/test_child_link.py",
    "events.py": "backends/decoding/test_chunks.py",
    "backends/own_engine.py": "backends/test_embedded.py",
    "gateway/serving/abilities.py": "http/ollama/test_models.py",
    "gateway/serving/cluster.py": "gateway/serving/test_cluster_deployment.py",
    "gateway/accounts/own_usage.py": "http/operations/test_own_usage.py",
    "gateway/accounts/request_list.py": "cli/test_requests.py",
    "gateway/attempts.py": "gateway/test_relay.py",
    "gateway/traces/attributes.py": "gateway/traces/test_spans.py",
    "gateway/traces/trace.py": "gateway/traces/test_spans.py",
    "gateway/pulls.py": "http/admin/test_pulls.py",
    "gateway/scheduling/description.py": "http/admin/test_backends.py",
    "gateway/scheduling/refusals.py": "gateway/scheduling/test_pool_drain.py",
    "models/fetching.py": "http/admin/test_pulls.py",
    "gateway/metrics.py": "http/operations/test_metrics.py",
    "gateway/scheduling/speed.py": "gateway/scheduling/test_routing.py",
    "http/admin/reload.py": "test_reload.py",
    "http/admin/router.py": "http/admin/test_keys.py",
    "http/local_callers.py": "http/test_access.py",
    "http/dialects/base.py": "http/dialects/test_chunks.py",
    "http/dialects/framing.py": "http/ollama/test_generate.py",
    "http/dialects/split.py": "http/dialects/test_chunks.py",
    "http/dialects/wire.py": "http/operations/test_openapi.py",
    "http/dialects/completions.py": "http/test_choices.py",
    "http/idempotency/kept_copy.py": "http/idempotency/test_replays.py",
    "http/request/sampling.py": "http/request/test_body.py",
    "http/request/completions.py": "http/test_choices.py",
    "http/recorded.py": "http/test_generate.py",
    "http/replies.py": "http/test_generate.py",
    "http/routes.py": "http/test_generate.py",
    "http/request/mistakes.py": "http/request/test_body.py",
    "http/request/lenient.py": "http/request/test_messages.py",
    "http/request/messages_schema.py": "http/request/test_messages.py",
    "http/request/responses_schema.py": "http/request/test_responses.py",
    "http/request/ollama_schema.py": "http/request/test_ollama.py",
    "http/tasks/asked.py": "http/tasks/test_tokens.py",
    "http/frames.py": "http/idempotency/test_replays.py",
    "http/connection/cancel_scope.py": "http/connection/test_exchange.py",
    "http/connection/senders.py": "http/test_cors.py",
    "http/operations/docs.py": "http/operations/test_application.py",
    "http/operations/security.py": "http/operations/test_openapi.py",
    "http/request/schema.py": "http/request/test_body.py",
    "store/database/schema.py": "store/database/test_migrate.py",
    "gateway/siblings.py": "workers/test_parent.py",
    "http/siblings.py": "workers/test_parent.py",
    "workers/listening.py": "workers/test_parent.py",
    "workers/messages.py": "workers/test_parent.py",
    "workers/process.py": "workers/test_parent.py",
    "workers/remote.py": "workers/test_engines.py",
    "workers/siblings.py": "workers/test_parent.py",
    "workers/worker.py": "workers/test_parent.py",
    "testing/connection.py": "testing/test_engine.py",
    "testing/record.py": "testing/test_engine.py",
}
"""Where a module is tested that has no test file of its own name."""


def test_every_module_has_its_tests_where_a_reader_looks_for_them() -> None:
    root = SOURCE / "reverie"
    homeless = set()
    for path in root.rglob("*.py"):
        name = path.relative_to(root)
        if path.stem.startswith("__") or "migrations" in name.parts:
            continue
        if not (TESTS / name.parent / f"test_{path.stem}.py").exists():
            homeless.add(name.as_posix())
    assert homeless == set(TESTED_ELSEWHERE)
    for tests in TESTED_ELSEWHERE.values():
        assert (TESTS / tests).exists(), tests


STARTS_TASKS = {
    "background": "what it keeps alive",
    "backends.tuning": "an answer that is measured, or gets cancelled",
    "cluster.actors": "an actor that is being made, which its start waits for",
    "cluster.child": "what it does side by side, whose group waits for all",
    "gateway.accounts.authentication": "requests that want the key wait for it",
    "gateway.choices": "generations side by side, whose request gets their failure",
    "http.connection.stream_writer": "a connection's ping",
    "http.connection.protocol": "a request, whose failure its cycle logs and answers with",
    "http.connection.in_flight": "a request's look-out for its client",
    "http.idempotency.replays": "a generation, which tells its record how it ended",
    "load.run": "requests of a load, whose group waits for them",
    "reload": "a reload, whose callers wait for it",
    "runner.probe": "an engine's probe, which its supervisor waits for",
    "runner.process": "the wait for an engine's exit, which its supervisor reads",
    "runner.supervisor": "its own waits, which it reads",
    "server": "parts of start and stop, which are waited for",
    "testing.connection": "the scripted engine",
    "testing.playback": "the scripted engine",
}
"""Modules that start tasks, each with who gets the failure of one. Others use ``background``."""


def test_no_task_is_started_whose_failure_nobody_gets() -> None:
    starting = {
        name.removeprefix("reverie.")
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("create_task", "ensure_future")
    }
    assert starting == set(STARTS_TASKS)
