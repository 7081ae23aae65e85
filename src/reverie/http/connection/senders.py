"""Functions in place of ASGI's ``send``, which change an answer on its way."""

from __future__ import annotations

from reverie.http.connection.exchange import Headers, Message, Send


def with_headers(send: Send, more: Headers) -> Send:
    """A ``send`` that adds headers to the answer."""

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *more]
        await send(message)

    return send_more


def without_body(send: Send) -> Send:
    """A ``send`` that leaves the body out, as for HEAD."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message["body"] = b""
        await send(message)

    return send_head
