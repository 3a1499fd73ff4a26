"""README and docs: links lead somewhere, files that they name exist, lines fit a screen."""

import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COLUMNS = 140
PLACEHOLDERS = re.compile(r"ROOM|FILE|NAME|VERB|PREFIX|XXXX|\*")


def _anchors(page: Path) -> set[str]:
    """The anchors of the headings, as the usual viewers make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8"))
    for target in targets:
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.is_file(), target
        assert not anchor or anchor in _anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_line_is_wider_than_a_screen(page: Path) -> None:
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        width = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)
        assert width <= COLUMNS, f"line {number}: {width} columns"


def test_the_readmes_have_the_same_numbers_and_files() -> None:
    english, japanese = (
        re.sub(r"\([^)]*\)", "", (ROOT / name).read_text(encoding="utf-8"))
        for name in ("README.md", "README.ja.md")
    )
    assert set(re.findall(r"\d\.\d+", english)) == set(re.findall(r"\d\.\d+", japanese))
    named = r"`([\w*/.-]+\.(?:yaml|json|csv|html|png|safetensors))`"
    assert set(re.findall(named, english)) == set(re.findall(named, japanese))


def test_the_tree_of_the_readme_is_the_tree() -> None:
    for name in ("README.md", "README.ja.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        rooms = set(re.findall(r"^abn/(\w+)/ ", text, re.M))
        packages = {path.parent.name for path in (ROOT / "abn").glob("*/__init__.py")}
        assert rooms == packages


def test_files_named_in_the_guide_for_developers_exist() -> None:
    text = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
    for line in text.splitlines():
        folder = ROOT
        for name in re.findall(r"`([\w/.-]+\.(?:pyi?|yaml|json)|[\w/]+/)`", line):
            if PLACEHOLDERS.search(name):
                continue
            path = ROOT / name if (ROOT / name).exists() else folder / name
            assert path.exists(), name
            folder = folder if path.is_dir() else path.parent
