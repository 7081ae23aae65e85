"""A transcript gives each of its readers all of it, and holds a bounded part of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from reverie.errors import AnswerNotKept, ClientGone, ReverieError, StreamNotResumable
from reverie.http.frames import Frame
from reverie.http.idempotency.transcript import MAX_TRANSCRIPT, KeptAnswer, Transcript
from reverie.pending import done

EVENT = b"data: " + b"x" * 10_000 + b"\n\n"
LARGE = b"data: " + b"x" * (2**20 - 8) + b"\n\n"
"""An event of 1 MiB."""
FITTING = MAX_TRANSCRIPT // len(LARGE)


def body(first: int, last: int) -> bytes:
    return b"".join(b"id: %d\ndata: \n\n" % number for number in range(first, last + 1))


def rest(answer: KeptAnswer, after: int) -> bytes:
    return b"".join(frame.data for frame in answer.frames(after))


def begun(base: int = 0) -> Transcript:
    transcript = Transcript()
    transcript.begin(None, base)
    return transcript


async def fill(transcript: Transcript, count: int, event: bytes = LARGE) -> None:
    for _ in range(count):
        await done(transcript.append(Frame(event, last=False)))


async def take(reader: AsyncGenerator[Frame, None], count: int) -> bytes:
    return b"".join([(await anext(reader)).data for _ in range(count)])


async def settle() -> None:
    """Let whatever can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


def is_handed_in_bounded_pieces(frames: list[Frame], whole: bytes) -> bool:
    return (
        max(len(frame.data) for frame in frames) < 2**16
        and b"".join(frame.data for frame in frames) == whole
        and [frame.last for frame in frames] == [False] * (len(frames) - 1) + [True]
    )


async def test_a_reader_is_handed_a_bounded_piece_at_a_time() -> None:
    transcript = begun()
    for number in range(200):
        await done(transcript.append(Frame(EVENT * 2, last=number == 199)))
    frames = [frame async for frame in transcript.read(100)]
    assert is_handed_in_bounded_pieces(frames, EVENT * 300)


def test_a_stored_answer_is_handed_in_pieces_and_one_without_events_whole() -> None:
    assert is_handed_in_bounded_pieces(list(KeptAnswer(1, b"", EVENT * 300).frames(0)), EVENT * 300)
    plain = b"{" + b"x" * 10**6 + b"}"
    (frame,) = KeptAnswer(1, b"", plain).frames(0)
    assert frame.data is plain
    assert frame.last


@pytest.mark.parametrize("base", [0, 7, 1_800_000_000_000_000])
def test_a_stored_answer_is_resumed_by_its_own_numbers(base: int) -> None:
    answer = KeptAnswer(1, b"", body(base + 1, base + 12))
    assert rest(answer, 0) == answer.body
    for has in range(1, 13):
        assert rest(answer, base + has) == body(base + has + 1, base + 12)
    for unknown in {base, base + 13, base + 120, 21, base // 10} - {0}:
        with pytest.raises(StreamNotResumable):
            rest(answer, unknown)


async def test_who_has_all_of_a_stored_answer_gets_an_empty_frame() -> None:
    assert next(KeptAnswer(1, b"", body(1, 3)).frames(3))[:2] == (b"", True)


async def test_a_running_answer_is_resumed_by_its_own_numbers() -> None:
    transcript = begun(1000)
    await done(transcript.append(Frame(body(1001, 1003), last=True)))
    assert (await anext(transcript.read(1001))).data == body(1002, 1003)
    for unknown in (1, 999, 1000, 1004):
        with pytest.raises(StreamNotResumable):
            await anext(transcript.read(unknown))


async def test_past_its_limit_it_drops_what_its_readers_have() -> None:
    transcript = begun()
    reader = transcript.read(0)
    filling = asyncio.create_task(fill(transcript, 3 * FITTING))
    assert len(await take(reader, 3 * FITTING)) == 3 * MAX_TRANSCRIPT
    await filling
    with pytest.raises(StreamNotResumable):
        await anext(transcript.read(1))
    with pytest.raises(AnswerNotKept):
        await anext(transcript.read(0))
    assert (await anext(transcript.read(3 * FITTING - 1))).data == LARGE


async def test_past_its_limit_it_waits_for_the_slowest_reader() -> None:
    transcript = begun()
    quick, slow = transcript.read(0), transcript.read(0)
    await fill(transcript, 1)
    await take(slow, 1)
    filling = asyncio.create_task(fill(transcript, 2 * FITTING))
    await take(quick, FITTING + 1)
    following = asyncio.create_task(take(quick, 1))
    await settle()
    assert not filling.done()
    assert not following.done()
    await take(slow, 2)
    await following
    await slow.aclose()  # and who leaves is waited for no more
    await take(quick, FITTING - 1)
    await filling


async def test_while_nobody_reads_it_drops_nothing() -> None:
    transcript = begun()
    reader = transcript.read(0)
    filling = asyncio.create_task(fill(transcript, 2 * FITTING))
    await take(reader, 3)
    await reader.aclose()
    await settle()
    assert not filling.done()
    again = transcript.read(3)
    await take(again, 2 * FITTING - 3)
    await filling


async def test_who_comes_back_with_all_of_a_full_transcript_makes_room_for_what_follows() -> None:
    transcript = begun()
    filling = asyncio.create_task(fill(transcript, FITTING + 1))
    await settle()
    assert not filling.done()
    async with asyncio.timeout(5):
        assert (await anext(transcript.read(FITTING))).data == LARGE
        await filling


async def test_an_answer_in_one_piece_is_held_whatever_its_size() -> None:
    transcript = begun()
    whole = b"{" + b"x" * 2 * MAX_TRANSCRIPT + b"}"
    await done(transcript.append(Frame(whole, last=True)))
    for _ in range(2):
        assert await anext(transcript.read(0)) == Frame(whole, last=True)


@pytest.mark.parametrize("after", [0, 3])
async def test_a_generation_that_could_not_begin_says_why(after: int) -> None:
    transcript = Transcript()
    reading = asyncio.create_task(anext(transcript.read(after)))
    await settle()
    transcript.fail(ClientGone("No."))
    with pytest.raises(ReverieError, match="No"):
        await reading
    assert transcript.readers == 0
