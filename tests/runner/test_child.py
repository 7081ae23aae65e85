"""The child's main: the flags of a ``llama-server``. The rest is tested in ``test_supervisor``."""

from __future__ import annotations

import socket

import pytest

from reverie.runner.child import _make_way, llama_server_flags
from reverie.runner.endpoint import Endpoint
from reverie.runner.options import PORT_TAKEN
from tests.runner.test_options import ON_A_PORT, OPTIONS


def test_what_the_operator_left_to_the_engine_is_no_flag() -> None:
    flags = llama_server_flags(OPTIONS)
    assert {"--jinja", "--no-webui", "--kv-unified"} <= set(flags)
    for absent in (
        "--kv-unified-per-slot",
        "--cache-type-k",
        "--n-gpu-layers",
        "--chat-template-file",
        "--port",
        "--api-key-file",
    ):
        assert absent not in flags


def test_what_the_operator_chose_is_a_flag() -> None:
    chosen = OPTIONS._replace(
        context=512, cache_type_k="q8_0", gpu_layers=0, template="/tmp/t.jinja"
    )
    line = " ".join(llama_server_flags(chosen))
    for flags in (
        "--kv-unified-per-slot 512",
        "--cache-type-k q8_0",
        "--n-gpu-layers 0",
        "--chat-template-file /tmp/t.jinja",
        "--ctx-size 4096",
        "--alias modèle m",
    ):
        assert flags in line


def test_an_engine_on_a_port_is_told_the_file_with_its_key() -> None:
    line = " ".join(llama_server_flags(ON_A_PORT))
    assert "--host 10.0.0.2" in line
    assert "--port 9000" in line
    assert "--api-key-file /tmp/reverie-1/api-key" in line


def test_an_engine_that_generates_nothing_is_told_so() -> None:
    assert "--embeddings" not in llama_server_flags(OPTIONS)
    embeds = llama_server_flags(OPTIONS._replace(task="embed", pooling="mean"))
    assert "--embeddings" in embeds
    assert "--pooling mean" in " ".join(embeds)
    assert "--pooling" not in llama_server_flags(OPTIONS._replace(task="embed"))
    assert "--reranking" in llama_server_flags(OPTIONS._replace(task="rerank"))


@pytest.mark.integration
def test_a_port_that_was_taken_is_not_told_as_the_models_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = Endpoint(*other.getsockname())
        with pytest.raises(SystemExit) as ended:
            _make_way(endpoint)
        assert ended.value.code == PORT_TAKEN
    _make_way(endpoint)  # free: it failed for another reason, and tries again
