"""The site of the docs: it builds without a warning and loads nothing from elsewhere."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.browser import Browser
from tests.conftest import ROOT

# What `git ls-files` lists for `make docs`, but for tests: folders whose files pages link to.
PUBLISHED = ("ablations", "benchmarks", "byola_rq", "docs", "evaluate", "examples", "notebooks")
IGNORED = shutil.ignore_patterns("__pycache__", ".*")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    root = tmp_path_factory.mktemp("checkout")
    for name in PUBLISHED:
        shutil.copytree(ROOT / name, root / "build" / "docs" / name, ignore=IGNORED)
        (root / name).symlink_to(ROOT / name)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, root / "build" / "docs")
    shutil.copy(ROOT / "mkdocs.yml", root)
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return root / "build" / "site"


class Loads(HTMLParser):
    """Collects what a page loads by itself: scripts, styles, images, frames, media."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note `src`, and the `href` of a `link`; that of an `a` is followed by a reader only."""
        for key, value in attrs:
            if value and (key in ("src", "srcset", "poster") or (tag, key) == ("link", "href")):
                self.addresses.append(value)


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    loaded = [address for page in pages for address in Loads(page.read_text()).addresses]
    assert len(loaded) > 5 * len(pages)
    outside = re.compile(r"(?:[a-z]+:)?//", re.IGNORECASE)
    assert [each for each in loaded if outside.match(each)] == []
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet


def test_what_is_loaded_from_elsewhere_would_be_seen() -> None:
    text = '<a href="https://a.example"></a><link href="https://b.example/c.css"><img src="//d">'
    assert Loads(text).addresses == ["https://b.example/c.css", "//d"]


def test_every_page_is_in_the_navigation(site: Path) -> None:
    listed = set(re.findall(r"[\w./-]+\.md", text_of_nav()))
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages - listed == {"docs/model_card.md"}  # a template, not a page
    for name in listed:
        page = site / name.replace("README.md", "index.html").replace(".md", ".html")
        assert page.is_file(), page


def test_search_works_from_the_disk(site: Path, browser: Browser) -> None:
    browser.open(site / "docs" / "explore.html")
    script = """new Promise(resolve => {
        const query = document.querySelector("[data-md-component=search-query]");
        const ask = () => {
            const found = document.querySelector(".md-search-result__item a");
            if (found) return resolve(found.href);
            query.focus();
            query.value = "SplitMix64";
            query.dispatchEvent(new KeyboardEvent("keyup", { bubbles: true }));
            setTimeout(ask, 100);
        };
        ask();
    })"""
    assert "decisions/0001-addressed-randomness.html" in browser.run(script)


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    for name in pages - {"README.md", "model_card.md"}:
        assert f"]({name})" in index, name


def text_of_nav() -> str:
    """The part of mkdocs.yml that lists the pages."""
    return (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
