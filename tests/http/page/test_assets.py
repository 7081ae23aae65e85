"""The page's files: what they weigh, where they come from, and that they need nothing else."""

from __future__ import annotations

import gzip
import hashlib
import json
import posixpath
import re

from reverie.http.page import assets
from reverie.http.page.assets import load

FOLDER = assets._FOLDER
LOCK = json.loads((FOLDER / "vendor" / "vendor.lock.json").read_text())
LOCKED = {file["to"]: file["sha256"] for package in LOCK["packages"] for file in package["files"]}
OWN = {name: file for name, file in load().files.items() if not name.startswith("vendor/")}

IMPORTS = re.compile(
    rb'^(?:import|export)\b(?:[^;"(]*?\bfrom)?\s*"([^"]+)";|\bimport\("([^"]+)"\)', re.MULTILINE
)


def test_the_whole_page_weighs_less_than_350_kb_compressed() -> None:
    loaded = load()
    weights = [len(file.compressed) for file in (loaded.page, *loaded.files.values())]
    assert sum(weights) < 350_000


def test_each_library_is_the_file_that_the_lock_lists() -> None:
    found = {
        file.relative_to(FOLDER / "vendor").as_posix(): hashlib.sha256(file.read_bytes())
        for file in (FOLDER / "vendor").rglob("*")
        if file.is_file() and file.name != "vendor.lock.json"
    }
    assert {name: digest.hexdigest() for name, digest in found.items()} == LOCKED
    for package in LOCK["packages"]:
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
        assert package["licence"]
        assert any(file["to"].startswith("licences/") for file in package["files"])


def test_modules_import_only_files_that_are_here() -> None:
    for name, file in load().files.items():
        if not name.endswith(("js", "mjs")):
            continue
        targets = IMPORTS.findall(file.body)
        for target in map(b"".join, targets):
            assert target.startswith((b"./", b"../")), f"{name} imports {target!r}"
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target.decode()))
            assert path in load().files, f"{name} imports {target!r}"


def test_the_page_names_no_other_host() -> None:
    assert b"://" not in load().page.body
    for name, file in OWN.items():
        without = file.body.replace(b'xmlns="http://www.w3.org/2000/svg"', b"")
        assert b"://" not in without, name


def test_html_is_made_of_text_in_one_place_only() -> None:
    for name, file in OWN.items():
        for way in (b"innerHTML", b"outerHTML", b"insertAdjacentHTML", b"document.write", b"eval("):
            assert way not in file.body, f"{name} has {way!r}"
        assert name == "markdown.js" or b"DOMPurify" not in file.body


def test_what_is_compressed_is_what_is_there() -> None:
    for file in (load().page, *load().files.values()):
        assert gzip.decompress(file.compressed) == file.body
    assert f"page/{load().build}/app.js".encode() in load().page.body
    assert b"{{" not in load().page.body
