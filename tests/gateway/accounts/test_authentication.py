from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reverie import background
from reverie.errors import ConfigurationError, InvalidApiKey, Overloaded, StoreFailure
from reverie.gateway.accounts import authentication
from reverie.gateway.accounts.authentication import (
    ANONYMOUS,
    Authenticator,
    _StoredKeys,
    static_keys,
)
from reverie.settings import StoreSettings
from reverie.store.database.engine import Store
from reverie.store.keys import Key, hash_of
from reverie.times import now_ms


def keys(value: str) -> Authenticator:
    return Authenticator(static_keys({"REVERIE_API_KEYS": value}, None))


@pytest.mark.parametrize("value", ["", " ", ",", " , "])
async def test_no_keys_means_everyone_is_anonymous(value: str) -> None:
    assert keys(value).open
    assert (await keys(value).authenticate(None)) is ANONYMOUS


async def test_each_listed_key_is_known_by_a_name_that_is_not_the_key() -> None:
    authenticator = keys("alpha-secret, beta-secret")
    assert (await authenticator.authenticate(b"Bearer alpha-secret")).name == "static-1"
    assert (await authenticator.authenticate(b"bearer  beta-secret ")).name == "static-2"


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"alpha-secret",
        b"Basic alpha-secret",
        b"Bearer alpha",
        b"Bearer alpha-secret2",
        b"Bearer alpha-secret,beta-secret",
        b"Bearer ' OR 1=1 --",
        "Bearer schlüssel".encode(),
        b"Bearer " + b"x" * 1_000_000,
        b"Bearer \x00",
        b"Bearer " + hashlib.sha256(b"alpha-secret").hexdigest().encode(),
    ],
)
async def test_anything_but_a_known_key_is_refused(header: bytes | None) -> None:
    with pytest.raises(InvalidApiKey) as caught:
        await keys("alpha-secret,beta-secret").authenticate(header)
    assert caught.value.headers == {"WWW-Authenticate": "Bearer"}
    assert "secret" not in caught.value.message


async def test_a_file_of_hashes_names_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    digest = hashlib.sha256(b"gamma").hexdigest()
    file.write_text(f"# team keys\n{digest} ops  # since May\n\n{'0' * 64}\n")
    authenticator = Authenticator(static_keys({}, file))
    assert (await authenticator.authenticate(b"Bearer gamma")).name == "ops"
    with pytest.raises(InvalidApiKey):
        await authenticator.authenticate(f"Bearer {digest}".encode())


def test_a_malformed_line_is_reported_with_its_number_and_nothing_of_its_text(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys"
    file.write_text("plain-secret ops\n")
    with pytest.raises(ConfigurationError) as caught:
        static_keys({}, file)
    assert "line 1" in str(caught.value)
    assert "plain-secret" not in str(caught.value)


def test_a_missing_file_of_hashes_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read"):
        static_keys({}, tmp_path / "none")


class Slow:
    """A store's keys, each look-up of which takes a moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
        self.stored = _StoredKeys(store)
        self.good = {hash_of(b"good")}
        self.asked: list[bytes] = []
        self.at_once = self.most_at_once = 0
        self._counting = threading.Lock()
        monkeypatch.setattr(self.stored, "_read", self._read)

    def _read(self, digests: Sequence[bytes]) -> dict[bytes, Key]:
        self.asked += digests
        with self._counting:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.002)
        with self._counting:
            self.at_once -= 1
        key = Key(id="key_1", name="team", created_at=now_ms())
        return {digest: key for digest in digests if digest in self.good}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Slow:
    return Slow(monkeypatch, Store(StoreSettings(url=f"sqlite:///{tmp_path}/keys.db", timeout=60)))


async def test_a_flood_of_unknown_keys_neither_harms_a_known_one_nor_the_threads(
    slow: Slow,
) -> None:
    good = hash_of(b"good")
    assert await slow.stored.find(good)
    flood = [
        asyncio.create_task(slow.stored.find(hash_of(str(number).encode())))
        for number in range(5000)
    ]
    for _ in range(20):
        slow.stored._known[good] = (0.0, slow.stored._known[good][1])  # as if it were a while ago
        caller = await slow.stored.find(good)
        assert caller is not None
        assert caller.name == "team"
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert {type(result) for result in results} == {type(None), Overloaded}
    assert slow.most_at_once <= authentication._UNKNOWN_LOOKUPS + 1
    assert len(slow.stored._unknown) <= authentication._MAX_UNKNOWN


async def test_one_unknown_key_is_looked_up_once_however_often_it_is_tried(slow: Slow) -> None:
    wrong = hash_of(b"wrong")
    assert await asyncio.gather(*(slow.stored.find(wrong) for _ in range(100))) == [None] * 100
    assert await slow.stored.find(wrong) is None
    assert slow.asked == [wrong]


async def test_a_read_that_fails_once_all_who_waited_have_gone_is_no_error_of_the_loop(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    may_fail, failed = threading.Event(), threading.Event()

    def fail(_: Sequence[bytes]) -> dict[bytes, Key]:
        may_fail.wait(30)
        failed.set()
        raise StoreFailure("it hangs")

    monkeypatch.setattr(slow.stored, "_read", fail)
    finding = asyncio.create_task(slow.stored.find(hash_of(b"any")))
    while not slow.stored._reading:
        await asyncio.sleep(0)
    finding.cancel()
    await asyncio.gather(finding, return_exceptions=True)
    del finding  # its traceback holds the read
    may_fail.set()
    async with asyncio.timeout(30):
        while slow.stored._reading:
            await asyncio.sleep(0.01)
    gc.collect()
    assert failed.is_set()
    assert told == []


def age(stored: _StoredKeys, seconds: float) -> None:
    """Make all that is known of keys older."""
    for digest, (asked, known) in stored._known.items():
        stored._known[digest] = (asked - seconds, known)


async def test_keys_in_use_are_read_again_together_before_anybody_waits_for_them(
    slow: Slow,
) -> None:
    slow.good = {hash_of(bytes([number])) for number in range(8)}
    stored = slow.stored
    for digest in slow.good:
        assert await stored.find(digest)
    age(stored, authentication._AGEING)
    slow.asked.clear()
    found = [stored.find(digest) for digest in slow.good]
    for one in found:
        with pytest.raises(StopIteration):  # it doesn't wait
            one.send(None)
    assert stored._refreshing is not None
    await stored._refreshing
    assert sorted(slow.asked) == sorted(slow.good)
    age(stored, authentication._AGEING)
    slow.good.clear()
    await asyncio.gather(*(stored.find(digest) for digest in list(stored._known)))
    await stored._refreshing
    assert not stored._known  # all were deleted: none is valid any more


async def test_the_watch_for_the_first_key_goes_on_after_a_failure(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = [False, OSError("injected"), RuntimeError("injected"), True]

    def any_exists() -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    monkeypatch.setattr(authentication, "_CACHED", 0.01)
    monkeypatch.setattr(background, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(slow.stored, "_any_exists", any_exists)
    await slow.stored.start()
    async with asyncio.timeout(10):
        while not slow.stored.has_keys:
            await asyncio.sleep(0.01)
    await slow.stored.stop()
    assert answers == []
