"""Asks a server by a client library of the field, unchanged, and prints as JSON what that made of
the answer: ``python clients.py CLIENT URL``. It runs in an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

QUESTION = "What is the weather in Paris?"


def agents(url: str) -> dict[str, Any]:
    """OpenAI's agents, which speak Responses: a whole round trip of a tool."""
    os.environ |= {
        "OPENAI_API_KEY": "any",
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
    }
    from agents import Agent, Runner, function_tool

    asked = []

    @function_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        asked.append(city)
        return "Sunny, 20 degrees"

    agent = Agent(name="Helper", model="m", tools=[get_weather])

    async def run() -> dict[str, Any]:
        result = Runner.run_streamed(agent, QUESTION)
        kinds = [event.type async for event in result.stream_events()]
        return {"text": result.final_output, "asked": asked, "events": len(kinds) > 5}

    return asyncio.run(run())


def langchain(url: str) -> dict[str, Any]:
    """LangChain, over chat completions and over Responses."""
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    @tool
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        return city

    told = {}
    for name, responses in (("chat", False), ("responses", True)):
        model = ChatOpenAI(
            model="m",
            base_url=f"{url}/v1",
            api_key="any",
            use_responses_api=responses,
            stream_usage=True,
        )
        chunks = list(model.bind_tools([get_weather]).stream(QUESTION))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        told[name] = {
            "text": whole.text,
            "asked": [call["args"]["city"] for call in whole.tool_calls],
            "tokens": whole.usage_metadata["output_tokens"] if whole.usage_metadata else None,
        }
    return told


def llama_index(url: str) -> dict[str, Any]:
    """LlamaIndex, which knows only OpenAI's own names of models: the server has them as aliases."""
    from llama_index.embeddings.openai import OpenAIEmbedding
    from llama_index.llms.openai import OpenAI

    model = OpenAI(model="gpt-4o", api_base=f"{url}/v1", api_key="any")
    embedding = OpenAIEmbedding(model="text-embedding-ada-002", api_base=f"{url}/v1", api_key="any")
    return {
        "text": "".join(piece.delta for piece in model.stream_complete(QUESTION)),
        "numbers": len(embedding.get_text_embedding("Hello")),
    }


CLIENTS = {"agents": agents, "langchain": langchain, "llama_index": llama_index}

if __name__ == "__main__":
    client, url = sys.argv[1:]
    sys.stdout.write(json.dumps(CLIENTS[client](url)) + "\n")
