"""The documentation's site: it builds without a warning, whole, and with nothing from elsewhere."""

from __future__ import annotations

import logging
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.exceptions import Abort

from tests.docs.site import build_site
from tests.test_docs import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_site(tmp_path_factory.mktemp("site"))


class Assets(HTMLParser):
    """What a browser fetches of itself for a page, and the page's text outside of code."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.text = ""
        self._code = 0
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._code += tag in ("code", "pre", "script", "style")
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.urls.append(values["href"] or "")
        elif tag != "a":
            self.urls += [url for name in ("src", "srcset", "data") if (url := values.get(name))]

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("code", "pre", "script", "style")

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.text += data


def test_each_page_of_the_repository_is_a_page_of_the_site(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages | {"index", "changelog", "contributing"} <= {p.stem for p in site.glob("*.html")}
    assert "Accounts that never lie" in (site / "index.html").read_text()
    assert not list(site.rglob("*.py"))


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.glob("*.html"))
    assert pages
    for page in pages:
        urls = Assets(page).urls
        assert any(url.endswith(".css") for url in urls)
        for url in urls:
            parts = urlsplit(url)
            assert not parts.netloc, f"{page.name} fetches {url}"
            assert parts.scheme in ("", "data")
            if parts.path and not parts.scheme and page.name != "404.html":
                assert (site / unquote(parts.path)).is_file(), f"{page.name} lacks {url}"
        assert 'class="mermaid"' not in page.read_text(), "diagrams fetch their program"
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//", style.read_text())


def test_markdown_means_on_the_site_what_it_means_in_the_repository(site: Path) -> None:
    """Python's Markdown wants an empty line before a list, and four spaces within one."""
    for page in site.glob("*.html"):
        text = Assets(page).text
        for left in ("```", "~~~", "](", "**", "| ---", "\\|"):
            assert left not in text, f"{page.name}: {left} is shown as it is written"
        assert not re.search(r"^- \w", text, re.MULTILINE), f"{page.name}: a list is no list"


def test_long_names_in_tables_end_a_line_between_their_words(site: Path) -> None:
    told = (site / "metrics.html").read_text()
    assert "reverie_<wbr>requests_<wbr>total<wbr>{<wbr>model,<wbr>status" in told
    assert "<wbr>" not in (site / "quickstart.html").read_text().partition("</h1>")[2]


def pages(folder: Path, **texts: str) -> str:
    docs = folder / "docs"
    docs.mkdir()
    for name, text in texts.items():
        (docs / f"{name}.md").write_text(text)
    return str(docs)


@pytest.mark.parametrize(
    "wrong",
    ["[gone](gone.md)", "[gone](accounts.md#gone)", "[gone](/accounts.md)"],
    ids=["page", "anchor", "absolute"],
)
def test_a_link_that_leads_nowhere_is_an_error(
    tmp_path: Path, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    docs = pages(tmp_path, index=f"# A page\n\n{wrong}\n", accounts="# Accounts\n")
    with caplog.at_level(logging.WARNING), pytest.raises(Abort):
        build_site(tmp_path / "site", docs_dir=docs, nav=["index.md", "accounts.md"], hooks=[])
    assert "accounts.md" in caplog.text or "gone.md" in caplog.text


def test_a_page_that_nobody_can_find_is_an_error(tmp_path: Path) -> None:
    docs = pages(tmp_path, index="# A page\n", lost="# Lost\n")
    with pytest.raises(Abort):
        build_site(tmp_path / "site", docs_dir=docs, nav=["index.md"], hooks=[])


def test_a_file_that_a_page_links_to_comes_along(tmp_path: Path) -> None:
    docs = shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (docs / "accounts.md").open("a") as page:
        page.write("\n[a file](../scripts/vendor.py) and [a page](../CONTRIBUTING.md#tests)\n")
        page.write("\n[a folder](../scripts) and [another](../tests/docs/) can't be shown\n")
    site = build_site(tmp_path / "site", docs_dir=str(docs))
    told = (site / "accounts.html").read_text()
    assert 'href="scripts/vendor.py"' in told
    assert 'href="contributing.html#tests"' in told
    assert "a folder and another can't be shown" in told
    original = ROOT / "scripts" / "vendor.py"
    assert (site / "scripts" / "vendor.py").read_bytes() == original.read_bytes()
