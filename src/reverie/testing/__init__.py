"""A scripted OpenAI-compatible engine: a real server with answers and faults by script.

It needs no model and no network, controls every byte that it sends, and records its requests, so
that a client can be tested against each way in which an engine can fail::

    async with ScriptedEngine(Script(tokens=("Hello", " world"), die_after=1)) as engine:
        ...  # call engine.url, then look at engine.requests
"""

from reverie.testing.engine import ScriptedEngine
from reverie.testing.record import RecordedRequest
from reverie.testing.script import Script, ToolCall
from reverie.testing.thread import ThreadedEngine

__all__ = ["RecordedRequest", "Script", "ScriptedEngine", "ThreadedEngine", "ToolCall"]
