"""The models that are known by name."""

from __future__ import annotations

import hashlib
import re

from reverie.models.catalogue import CATALOGUE, look_up
from reverie.models.store import fetch
from reverie.runner.supervisor import Runner
from reverie.settings import ModelSettings


def test_no_two_models_answer_to_one_name() -> None:
    names = [name for entry in CATALOGUE for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))
    assert all(look_up(name) is not None for name in names)


def test_a_name_is_matched_as_it_is_written() -> None:
    assert look_up("SMOLLM2-135M") is None
    assert look_up("") is None


def test_every_model_is_pinned() -> None:
    for entry in CATALOGUE:
        assert re.fullmatch(r"[\w-]+==[\d.]+", entry.origin.requirement)
        assert re.fullmatch("[0-9a-f]{64}", entry.origin.sha256)
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256)


def test_the_default_model_is_the_file_that_it_is_pinned_to() -> None:
    entry = CATALOGUE[0]
    with fetch(entry.name).open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
        assert file.tell() == entry.size


async def test_what_a_model_is_said_to_take_is_what_its_engine_expects() -> None:
    for entry in CATALOGUE:
        settings = ModelSettings(name=entry.name, source=entry.name)
        runner = Runner(entry.name, fetch(entry.name), settings)
        await runner.check()
        assert runner.memory == entry.memory
