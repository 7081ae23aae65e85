"""What the supervisor tells its child."""

from __future__ import annotations

from reverie.runner.endpoint import Endpoint
from reverie.runner.options import EngineOptions, cpu_batch

OPTIONS = EngineOptions(
    engine="/bin/llama-server",
    model="/models/m.gguf",
    alias="modèle m",
    endpoint=Endpoint("/tmp/reverie-1/engine.sock"),
    template=None,
    slots=2,
    context=0,
    kv_tokens=4096,
    batch=128,
    threads=4,
    gpu_layers=-1,
    cache_type_k="auto",
    cache_mib=256,
    parent=1,
)


ON_A_PORT = OPTIONS._replace(endpoint=Endpoint("10.0.0.2", 9000, "/tmp/reverie-1/api-key"))


def test_the_child_reads_what_the_supervisor_wrote() -> None:
    for options in (OPTIONS, OPTIONS._replace(template="/tmp/t.jinja", context=512), ON_A_PORT):
        assert EngineOptions.from_json(options.to_json()) == options


def test_a_batch_on_a_cpu_is_small_and_leaves_room_for_prompts_beside_all_answers() -> None:
    assert cpu_batch(1) == cpu_batch(8) == 16
    assert cpu_batch(40) == 80
