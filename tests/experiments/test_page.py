"""The page: everything in one file, the same bytes each time, and it says what is missing."""

import io
import re
from pathlib import Path

import numpy as np
import pytest

from abn.cli.main import main
from abn.experiments import page
from abn.experiments.comparison import Comparison, compare
from abn.experiments.snapshots import WORKSPACE, read
from abn.runtime.errors import DiskError
from abn.visualize.figures import sheet
from abn.visualize.overlay import Style
from abn.visualize.tiles import Tile
from tests.experiments.recorded import cache, record


def draw() -> None:
    """A sheet of two classes in DVC's cache."""
    image, attention = np.full((8, 8, 3), 90, np.uint8), np.eye(4, dtype=np.float32)
    tiles = [Tile(image, attention, name, name, 0.9) for name in "ab"]
    file = io.BytesIO()
    sheet(tiles, Style("jet", 1.0), 60).savefig(file, format="png", dpi="figure")
    cache(file.getvalue(), "sheet")


@pytest.fixture
def two() -> Comparison:
    record("a-1", right=36, arch="resnet34")
    record("a-2", right=38, arch="resnet34", seed=2, verdict="undecided")
    return compare(read(["HEAD", "a"]))


def test_the_page_needs_nothing_else_and_has_all_parts(two: Comparison) -> None:
    draw()
    html = page.render(two, [])
    assert not re.findall(
        r"<script|<link(?! rel=\"icon\" href=\"data:,\")|(?:src|href)=\"http", html
    )
    assert html.count("<svg") == len(page.CURVES)
    assert html.count('<img src="data:image/jpeg;base64,') == 4  # two classes, two configurations
    assert "undecided 1" in html and "Att-CAM (2)" in html and "+0.150" in html


def test_maps_compared_between_seeds_are_a_table() -> None:
    record("a-1", cells={5: "x3"})
    record("a-2", cells={5: "x6"}, seed=2)
    html = page.render(compare(read(["a"])), [])
    assert "Stable between seeds" in html and "<td>0.333</td>" in html


def test_the_same_results_give_the_same_bytes(two: Comparison) -> None:
    assert page.render(two, []) == page.render(two, [])


def test_missing_pictures_are_named(two: Comparison) -> None:
    html = page.render(two, [])
    assert "<img" not in html
    assert "arch=resnet34: no pictures here. They are not in DVC&#39;s cache" in html


def test_why_there_is_no_picture_is_a_sentence() -> None:
    cache(b"no picture", "sheet")
    assert "no pictures here. They are unreadable." in page.render(compare(read(["HEAD"])), [])


def test_the_pictures_of_the_workspace_need_no_checkout() -> None:
    html = page.render(compare(read([WORKSPACE])), [])
    assert "where a remote has it: dvc pull outputs/abn_attentions.png." in html


def test_names_in_any_script_give_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    record("a", arch="日本語")
    assert "arch=日本語</text>" in page.render(compare(read(["HEAD", "a"])), [])
    assert not recwarn.list


def test_a_difference_lies_on_one_scale_with_its_interval(two: Comparison) -> None:
    (row,) = page._whiskers(two, "evaluate.top1")
    assert 0 < row.zero < row.low < row.mean < row.high < 100


def test_the_verdicts_of_all_seeds_are_counted(two: Comparison) -> None:
    live, causal = page._gates(two.configurations)
    assert [dict(outcomes) for outcomes, _ in live["cells"]] == [{"pass": 1}, {"pass": 2}]
    assert [mean for _, mean in causal["cells"]] == [0.01, 0.01]


def test_the_page_takes_its_own_place_but_not_that_of_another_file(two: Comparison) -> None:
    page.write(Path("out/page.html"), two, [])
    page.write(Path("out/page.html"), two, [])
    Path("mine.html").write_text("<h1>mine</h1>")
    with pytest.raises(DiskError, match="not written by `abn compare`; mine"):
        page.write(Path("mine.html"), two, [])
    assert Path("mine.html").read_text() == "<h1>mine</h1>"


@pytest.mark.parametrize("text", ["See {mark}\n", "<!DOCTYPE html><title>x</title>{mark}"])
def test_a_file_that_only_mentions_the_mark_stays(two: Comparison, text: str) -> None:
    Path("notes.txt").write_text(text.format(mark=page.MARK))
    with pytest.raises(DiskError, match="not written by `abn compare`; notes"):
        page.write(Path("notes.txt"), two, [])
    assert page.MARK in Path("notes.txt").read_text()


def test_a_page_is_written_in_the_folder_of_the_call(
    two: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dvc.yaml", "params.yaml", "docs/x"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    monkeypatch.chdir("docs")
    assert main(["compare", "HEAD", "HEAD", "--html", "page.html"]) == 0
    assert Path("docs/page.html").is_file() and not Path("page.html").exists()  # here: the root
