"""What the site does beyond mkdocs: pages of the repository's root, and files that pages link to.

Pages are written to be read in the repository, with links relative to their own file.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages of the root → what the site calls them."""
_LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?(?=\))")

_OUTWARD = re.compile(r"\[(?P<text>[^\]]*)\]\(\.\./(?P<path>[^)#\s]*)\)")
_CELL = re.compile(r"<t([dh])>.*?</t\1>", re.DOTALL)
_CODE = re.compile(r"(?<=<code>)[^<]+(?=</code>)")
_BREAKABLE = re.compile(r"(?<=[_{,./=])(?=[^_\s])|(?=\{)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the root's pages, and what pages link to outside of the folder, such as `deploy/`."""
    for name, page in ROOT_PAGES.items():
        text = _from_the_root((ROOT / name).read_text())
        files.append(File.generated(config, page, content=text))
    for file in list(files.documentation_pages()):
        for link in _LINK.finditer(file.content_string):
            path = link["path"].removeprefix("../")
            if link["path"].startswith("../") and path not in ROOT_PAGES:
                _add(files, config, path)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links out of the folder to where the site has what they lead to.

    A folder can't be looked into there, so its link is only a text.
    """
    return _LINK.sub(_within_the_site, _OUTWARD.sub(_unless_a_folder, markdown))


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show a bar in a table's code as GitHub does, where it must be written as `\\|`, and let the
    long names of settings, metrics and tests end a line between their words.
    """
    return _CELL.sub(lambda cell: _CODE.sub(_breakable, cell[0].replace("\\|", "|")), html)


def _add(files: Files, config: MkDocsConfig, path: str) -> None:
    if (ROOT / path).is_file() and path not in files.src_uris:
        content = (ROOT / path).read_bytes()
        inclusion = InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, path, content=content, inclusion=inclusion))


def _from_the_root(text: str) -> str:
    """The links of a page at the root, as if it stood in the folder of the others."""

    def moved(link: re.Match[str]) -> str:
        path = link["path"]
        moved = path.removeprefix("docs/") if path.startswith("docs/") else f"../{path}"
        return moved + (link["anchor"] or "")

    return _LINK.sub(moved, text)


def _breakable(code: re.Match[str]) -> str:
    return _BREAKABLE.sub("<wbr>", code[0])


def _unless_a_folder(link: re.Match[str]) -> str:
    return link["text"] if (ROOT / link["path"]).is_dir() else link[0]


def _within_the_site(link: re.Match[str]) -> str:
    path = link["path"]
    if path.startswith("../"):
        inner = path.removeprefix("../")
        path = ROOT_PAGES.get(inner, inner)
    return path + (link["anchor"] or "")
