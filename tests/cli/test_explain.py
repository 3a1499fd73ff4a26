"""`abn explain IMAGE --attention ...`: the answer before and after, and the picture of both."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from abn.cli import explain
from abn.cli.main import main
from abn.inference.predictor import Predictor
from tests import toys


@pytest.fixture(autouse=True)
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """a.png in the working folder, and a network of four classes."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(toys.split(1).images[0].numpy()).save("a.png")
    model = Predictor(toys.network(), toys.NAMES, 32, 32, toys.CPU)
    monkeypatch.setattr(explain, "open_network", lambda name: model)


def test_it_prints_the_answer_before_and_after(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "a.png", "--attention", "none"]) == 0
    before, after, conclusion = capsys.readouterr().out.splitlines()
    assert before.startswith("before: ") and after.startswith("after:  ")
    first, last = before.split()[1], after.split()[1]
    changes = f"the decision changes: {first} becomes {last}"
    assert conclusion == (f"the decision stays: {first}" if first == last else changes)


def test_json_has_both_answers_and_maps(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "a.png", "--attention", "mean", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (said["file"], said["attention"]) == ("a.png", "mean")
    mean = np.mean(said["before"]["map"])
    np.testing.assert_allclose(said["after"]["map"], np.full((4, 4), mean), atol=1e-5)
    assert said["changed"] == (said["before"]["prediction"] != said["after"]["prediction"])


def test_the_picture_shows_the_image_under_both_maps_and_replaces_no_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain", "a.png", "--attention", "invert", "--to", "both.png"]) == 0
    pixels = np.array(Image.open("both.png"))
    assert pixels.shape == (32, 32 + 8 + 32, 3)
    assert (pixels[:, :32] != pixels[:, 40:]).any()
    before = Path("both.png").read_bytes()
    assert main(["explain", "a.png", "--attention", "none", "--to", "both.png"]) == 5
    assert Path("both.png").read_bytes() == before
    assert main(["explain", "a.png", "--attention", "none", "--to", "both.tif"]) == 5
    assert "exists already; both.png" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--attention", "nothing.png"], ["--attention", "a.txt"]])
def test_a_map_that_is_no_picture_is_refused_in_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.txt").write_text("mine")
    assert main(["explain", "a.png", *words]) == 3
    assert capsys.readouterr().err.count("\n") == 1
