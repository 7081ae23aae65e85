"""In which pieces an answer arrives, and how it breaks off."""

import asyncio

import pytest

from reverie.testing import Script, ScriptedEngine
from tests.testing.client import Answer, ask, chat, connect, post, read_all
from tests.testing.conftest import StartEngine


async def whole_body(**fields: object) -> bytes:
    async with ScriptedEngine(Script(**fields)) as engine:  # type: ignore[arg-type]
        return (await ask(engine, stream=True)).body


def pieces(answer: Answer) -> list[bytes]:
    """The HTTP chunks of a streamed body."""
    found, rest = [], answer.framed
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return found[:-1]


@pytest.mark.parametrize(("batch", "texts"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [3])])
async def test_a_batch_of_tokens_is_one_write(
    start_engine: StartEngine, batch: int, texts: list[int]
) -> None:
    answer = await ask(await start_engine(tokens=("a", "b", "c"), batch=batch), stream=True)
    counts = [piece.count(b'{"content":"') for piece in pieces(answer)]
    assert [count for count in counts if count] == texts
    assert answer.text == "abc"


async def test_the_whole_answer_can_be_one_write(start_engine: StartEngine) -> None:
    answer = await ask(await start_engine(batch=None), stream=True)
    assert pieces(answer) == [await whole_body()]


async def test_every_write_arrives_by_itself_within_one_event_loop(
    start_engine: StartEngine,
) -> None:
    answer = await ask(await start_engine(tokens=("a", "b")), stream=True)
    assert len(answer.reads) == 4  # head and role; a; b; the end


@pytest.mark.parametrize("split", [1, 7, 100])
async def test_a_body_can_be_split_at_every_so_many_bytes(
    start_engine: StartEngine, split: int
) -> None:
    answer = await ask(await start_engine(split=split, tokens=("ä",)), stream=True)
    body = await whole_body(tokens=("ä",))
    assert answer.body == body
    assert {len(piece) for piece in pieces(answer)} <= set(range(1, split + 1))
    position = 0
    for piece in pieces(answer):
        assert position // split == (position + len(piece) - 1) // split
        position += len(piece)


async def test_a_body_can_be_cut_at_chosen_bytes(start_engine: StartEngine) -> None:
    body = await whole_body(batch=None)
    answer = await ask(await start_engine(batch=None, cuts=(300, 5)), stream=True)
    assert pieces(answer) == [body[:5], body[5:300], body[300:]]
    unary = await ask(await start_engine(split=10))
    assert unary.json["choices"][0]["message"]["content"] == "Hello world"


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("how", ["reset", "close", "end"])
async def test_death_between_tokens(start_engine: StartEngine, after: int, how: str) -> None:
    engine = await start_engine(die_after=after, die_how=how)
    answer = await ask(engine, stream=True)
    assert answer.text == "".join(("Hello", " world")[:after])
    assert (answer.reason, "[DONE]" in answer.payloads) == (None, False)
    assert (answer.reset, answer.whole) == (how == "reset", how == "end")
    assert (engine.requests[0].outcome, engine.requests[0].sent) == ("died", after)


async def test_death_at_every_byte_gives_exactly_the_bytes_before_it(
    start_engine: StartEngine,
) -> None:
    body = await whole_body(tokens=("é",))
    engine = await start_engine()
    for die_at in range(0, len(body) + 1, 11):
        engine.script = Script(tokens=("é",), die_at_byte=die_at, die_how="close")
        answer = await ask(engine, stream=True)
        assert (answer.body, answer.whole) == (body[:die_at], False)
    assert engine.died == engine.generations


async def test_a_death_that_the_answer_never_reaches_is_none(start_engine: StartEngine) -> None:
    engine = await start_engine(die_after=3, die_at_byte=100_000)
    assert (await ask(engine, stream=True)).whole
    assert engine.completed == 1


async def test_an_unstreamed_answer_dies_without_a_byte(start_engine: StartEngine) -> None:
    answer = await ask(await start_engine(die_after=1, die_how="close"))
    assert answer.received == b""
    answer = await ask(await start_engine(die_at_byte=10, die_how="close"))
    assert (len(answer.body), answer.whole) == (10, False)


@pytest.mark.parametrize("raw", [b"", b"SSH-2.0-OpenSSH_9.6\r\n"])
async def test_raw_bytes_can_come_instead_of_http(start_engine: StartEngine, raw: bytes) -> None:
    engine = await start_engine(raw=raw, die_how="close")
    reader, writer = await connect(engine)
    writer.write(post(chat()))
    assert await reader.read() == raw
    writer.close()
    assert engine.died == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stall_lasts_until_the_client_leaves(
    start_engine: StartEngine, stream: bool
) -> None:
    engine = await start_engine(stall_after=1)
    _, writer = await connect(engine)
    writer.write(post(chat(stream=stream)))
    await engine.wait_for(lambda e: e.stalled == 1)
    assert (engine.in_flight, engine.requests[0].sent) == (1, 1)
    writer.close()
    await engine.wait_for(lambda e: e.stalled == 0 and e.cancelled == 1)
    assert engine.requests[0].outcome == "cancelled"


async def test_a_stalled_answer_continues_when_it_is_resumed(start_engine: StartEngine) -> None:
    engine = await start_engine(stall_after=1)
    asking = asyncio.create_task(ask(engine, stream=True))
    await engine.wait_for(lambda e: e.stalled == 1)
    engine.resume()
    assert (await asking).text == "Hello world"
    assert engine.completed == 1


async def test_a_stalled_stream_can_keep_pinging(start_engine: StartEngine) -> None:
    engine = await start_engine(stall_after=0, stall_pings=0.001)
    reader, writer = await connect(engine)
    writer.write(post(chat(stream=True)))
    async with asyncio.timeout(5):
        for _ in range(3):
            await reader.readuntil(b": ping\n\n")
        engine.resume()
        await reader.readuntil(b"Hello")
    writer.close()


@pytest.mark.parametrize("waits", ["delay_headers", "first_delay", "delay"])
async def test_a_client_that_leaves_during_a_delay_is_noticed(
    start_engine: StartEngine, waits: str
) -> None:
    engine = await start_engine(**{waits: 60})
    _, writer = await connect(engine)
    writer.write(post(chat(stream=True)))
    expected = 1 if waits == "delay" else 0
    await engine.wait_for(lambda e: e.in_flight == 1 and e.requests[0].sent == expected)
    writer.close()
    await engine.wait_for(lambda e: e.cancelled == 1 and e.in_flight == 0)


async def test_short_delays_change_nothing_but_the_time(start_engine: StartEngine) -> None:
    engine = await start_engine(delay_headers=0.001, first_delay=0.001, delay=0.001, gap=0.001)
    assert (await ask(engine, stream=True)).body == await whole_body()


async def test_who_leaves_after_the_last_token_has_cancelled_nothing(
    start_engine: StartEngine,
) -> None:
    body = await whole_body()
    engine = await start_engine(cuts=(body.index(b'"stop"'),), gap=60)
    reader, writer = await connect(engine)
    writer.write(post(chat(stream=True)))
    async with asyncio.timeout(5):
        await reader.readuntil(b'"finish_reason":\r\n')  # the reason itself is 60 s away
    writer.close()
    await engine.wait_for(lambda e: e.in_flight == 0)
    assert engine.requests[0].outcome == "completed"


@pytest.mark.slow
async def test_a_large_answer_waits_for_a_slow_client(start_engine: StartEngine) -> None:
    engine = await start_engine(tokens=("x" * 100_000,) * 200)
    reader, writer = await connect(engine)
    writer.write(post(chat(stream=True)))
    await engine.wait_for(lambda e: bool(e.requests) and e.requests[0].sent > 0)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert engine.requests[0].sent < 200
    answer = await read_all(reader)
    assert len(answer.text) == 200 * 100_000
    writer.close()
