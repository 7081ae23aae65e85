"""The scripted engine for tests without an event loop."""

import http.client
import json
from urllib.parse import urlsplit

import pytest

from reverie.testing import Script, ThreadedEngine

pytestmark = pytest.mark.integration


def ask(engine: ThreadedEngine) -> str:
    connection = http.client.HTTPConnection(urlsplit(engine.url).netloc, timeout=5)
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}]})
    connection.request("POST", "/v1/chat/completions", body)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer["choices"][0]["message"]["content"]


def test_an_engine_serves_from_a_thread() -> None:
    with ThreadedEngine(Script(tokens=("one",)), model="m") as engine:
        assert ask(engine) == "one"
        engine.script = Script(tokens=("two",))
        assert engine.script.tokens == ("two",)
        assert ask(engine) == "two"
        engine.wait_for(lambda e: e.completed == 2 and e.connections == 0)
        assert engine.requests[0].outcome == "completed"


def test_what_is_set_on_it_is_set_on_its_engine() -> None:
    with ThreadedEngine() as engine:
        engine.scripts = [Script(tokens=("first",))]
        assert (ask(engine), ask(engine)) == ("first", "Hello world")
        engine.healthy = False
        connection = http.client.HTTPConnection(urlsplit(engine.url).netloc, timeout=5)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 503
        connection.close()


def test_it_can_be_killed_and_restarted() -> None:
    with ThreadedEngine() as engine:
        engine.kill()
        with pytest.raises(ConnectionRefusedError):
            ask(engine)
        engine.restart()
        assert ask(engine) == "Hello world"


def test_a_client_that_gives_up_is_seen_as_cancelled() -> None:
    with ThreadedEngine(Script(stall_after=0)) as engine:
        connection = http.client.HTTPConnection(urlsplit(engine.url).netloc)
        connection.request("POST", "/v1/chat/completions", '{"messages":[{"role":"user"}]}')
        engine.wait_for(lambda e: e.stalled == 1)
        connection.close()
        engine.wait_for(lambda e: e.cancelled == 1)
        with pytest.raises(TimeoutError):
            engine.wait_for(lambda e: e.stalled == 1, timeout=0.01)
        engine.resume()


def test_an_address_that_is_taken_is_an_error_and_leaves_no_thread() -> None:
    with ThreadedEngine() as engine:
        port = urlsplit(engine.url).port
        with pytest.raises(OSError, match="in use"), ThreadedEngine(port=port):
            pass
