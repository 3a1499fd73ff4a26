"""The images of the gallery are chosen by a rule, with the network's own prediction and map."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from abn.data.loader import CenterCrop
from abn.predict import Predictions, predict
from abn.visualize import gallery
from abn.visualize.gallery import (
    by_srg,
    confident_errors,
    first_of_each_class,
    items,
    map_that_ranks,
    map_to_draw,
    of_map,
    slugs,
)
from abn.visualize.overlay import Style
from abn.visualize.tiles import ATTENTION
from tests import toys
from tests.toys import CPU, NAMES, WHOLE


def scored(*srg: float | None) -> pd.DataFrame:
    """A table of scored images 0, 1, 2, ..."""
    return pd.DataFrame({"index": range(len(srg)), "srg": srg})


def predictions(*rows: tuple[float, int]) -> Predictions:
    """Images of two classes: the logit of class 0 (of class 1 it is 0), and the label."""
    logits = torch.tensor([[logit, 0.0] for logit, _ in rows])
    labels = torch.tensor([label for _, label in rows])
    return Predictions(logits, logits, torch.zeros(len(rows), 4, 4), labels)


def test_the_first_image_of_each_class_is_shown_as_far_as_asked_for() -> None:
    model, split = toys.network().eval(), toys.split()
    mixed = split.take(torch.tensor([6, 1, 5, 3, 2, 0, 4]))
    tiles = first_of_each_class(model, mixed, WHOLE, 4, ATTENTION)
    assert [tile.truth for tile in tiles] == list(NAMES)
    for tile, place in zip(tiles, [5, 1, 0, 3], strict=True):
        assert np.array_equal(tile.image, mixed.images[place].numpy())
    assert [t.truth for t in first_of_each_class(model, split, WHOLE, 2, ATTENTION)] == [
        "red",
        "blue",
    ]
    without_blue = split.take((split.labels != 1).nonzero()[:, 0])
    tiles = first_of_each_class(model, without_blue, WHOLE, 9, ATTENTION)
    assert [tile.truth for tile in tiles] == ["red", "green", "yellow"]


def test_a_tile_has_the_networks_input_prediction_and_map() -> None:
    model, split = toys.network(), toys.split(4)
    output = predict(model, split, CenterCrop(16, 24), 4, CPU)
    tiles = first_of_each_class(model, split, CenterCrop(16, 24), 4, ATTENTION)
    for i, tile in enumerate(tiles):
        assert tile.image.shape == (16, 16, 3) and tile.image.dtype == np.uint8
        assert tile.prediction == NAMES[output.logits[i].argmax()]
        assert abs(tile.confidence - output.logits[i].softmax(0).max()) < 1e-5
        assert np.allclose(tile.attention, output.attention[i], atol=1e-5)


@pytest.mark.parametrize(
    ("wanted", "recommended", "drawn"),
    [
        ("attention", "att_cam", "attention"),
        ("recommended", "att_cam", "att_cam"),
        ("recommended", "attention", "attention"),
        ("recommended", "none", "attention"),
        ("gradcam", "att_cam", "gradcam"),
    ],
)
def test_the_map_drawn_is_the_one_named_or_recommended(wanted, recommended, drawn) -> None:
    assert map_to_draw(wanted, recommended) == drawn


def test_a_residual_network_ranks_by_the_recommended_map_and_a_looking_one_by_its_own() -> None:
    assert map_that_ranks("attention", "att_cam", looks=False) == "att_cam"
    assert map_that_ranks("attention", "none", looks=False) == "attention"
    assert map_that_ranks("gradcam", "none", looks=False) == "gradcam"
    assert map_that_ranks("attention", "att_cam", looks=True) == "attention"


def test_the_best_images_are_those_of_the_map_that_is_drawn() -> None:
    table = pd.DataFrame({"index": [0, 1], "srg": [0.1, 0.9], "srg_att_cam": [0.8, None]})
    assert of_map(table, "attention")["srg"].tolist() == [0.1, 0.9]
    assert of_map(table, "att_cam")["srg"].tolist()[0] == 0.8
    labels = torch.zeros(2, dtype=torch.int64)
    assert [c.place for c in by_srg(of_map(table, "att_cam"), labels, ["disc"])] == [0]


def test_another_map_is_drawn_for_the_class_predicted_all_on_one_scale() -> None:
    model, split = toys.network().eval(), toys.split(8)
    output = predict(model, split, WHOLE, 8, CPU)
    tiles = first_of_each_class(model, split, WHOLE, 4, "att_cam")
    logits = [output.attention_logits[i, output.logits[i].argmax()] for i in range(4)]
    for tile, logit in zip(tiles, logits, strict=True):
        assert tile.other is not None and tile.other.name == "att_cam"
        assert tile.other.values.mean() == pytest.approx(float(logit), abs=1e-5)
    cells = np.stack([tile.heat.values for tile in tiles])
    assert {tile.heat.scale for tile in tiles} == {(float(cells.min()), float(cells.max()))}


def test_a_slug_is_a_safe_file_name_and_no_two_are_alike() -> None:
    names = ["English springer", "../../etc/passwd", "Été!", "🐕", "", "x" * 99, "犬" * 99]
    expected = ["english-springer", "etc-passwd", "été", "class", "class-2", "x" * 48, "犬" * 48]
    assert slugs(names) == expected
    assert all(
        len(f"{slug}-median.png".encode()) <= 255 for slug in slugs(["😀犬" * 99, "𠮷" * 99])
    )
    assert slugs(["a", "a-2", "A", "a!", "a 2"]) == ["a", "a-2", "a-3", "a-4", "a-2-2"]


def test_a_slug_keeps_letters_of_any_script_with_their_marks() -> None:
    names = ["カブトムシ", "ด้วงน้ำมัน", "भृंग कीट", "خنفساء سوداء", "중국어", "cafe\u0301"]
    assert slugs(names) == ["カブトムシ", "ด้วงน้ำมัน", "भृंग-कीट", "خنفساء-سوداء", "중국어", "café"]


@pytest.mark.parametrize(
    ("srg", "expected"),
    [
        ([], {}),
        ([0.1], {"best": 0}),
        ([0.1, 0.2], {"best": 1, "worst": 0}),
        ([0.2, 0.3, 0.1], {"best": 1, "median": 0, "worst": 2}),
        ([0.4, 0.3, 0.1, 0.2], {"best": 0, "median": 3, "worst": 2}),  # the lower median
        ([0.5, 0.5, 0.5], {"best": 0, "median": 1, "worst": 2}),  # ties by index
        ([0.1, None, 0.2], {"best": 2, "worst": 0}),
    ],
)
def test_best_median_and_worst_by_srg(srg: list[float | None], expected: dict[str, int]) -> None:
    choices = by_srg(scored(*srg), torch.zeros(9, dtype=torch.int64), ["disc"])
    assert {choice.role: choice.place for choice in choices} == expected
    assert all(choice.name == f"disc-{choice.role}" for choice in choices)


def test_the_order_of_the_table_does_not_matter_and_classes_do() -> None:
    table, labels = scored(0.1, 0.2, 0.3, 0.4), torch.tensor([1, 0, 1, 0])
    choices = by_srg(table, labels, ["a", "b"])
    assert [c.name for c in choices] == ["a-best", "a-worst", "b-best", "b-worst"]
    assert [c.place for c in choices] == [3, 1, 2, 0]
    assert by_srg(table[::-1], labels, ["a", "b"]) == choices


def test_errors_are_shown_most_confident_first_ties_by_index() -> None:
    wrong = predictions((3, 0), (1, 1), (2, 1), (-1, 0), (1, 1))
    assert [(c.name, c.place) for c in confident_errors(wrong, 3)] == [
        ("error-1", 2),
        ("error-2", 1),
        ("error-3", 3),
    ]
    assert len(confident_errors(wrong, 9)) == 4
    assert confident_errors(wrong, 0) == []


def test_an_error_comes_with_the_evidence_for_both_classes() -> None:
    model, split = toys.network(seed=1).eval(), toys.split(12)
    output = predict(model, split, WHOLE, 5, CPU)
    choices = confident_errors(output, 2)
    assert len(choices) == 2
    for choice, shown in zip(
        choices, items(model, split, WHOLE, choices, scored(0.5), *2 * [ATTENTION]), strict=True
    ):
        assert shown.evidence is not None
        logits = output.attention_logits[choice.place]
        predicted, truth = output.logits[choice.place].argmax(), split.labels[choice.place]
        means = [float(values.mean()) for values in shown.evidence]
        assert np.allclose(means, [logits[predicted], logits[truth]], atol=1e-5)
        assert shown.tile.truth == NAMES[truth] and shown.tile.prediction == NAMES[predicted]


def test_a_score_goes_with_its_image() -> None:
    model, split = toys.network().eval(), toys.split(8)
    table = pd.DataFrame({"index": [5, 1], "srg": [0.25, 0.75]})
    shown = items(model, split, WHOLE, by_srg(table, split.labels, NAMES), table, *2 * [ATTENTION])
    assert [(e.name, e.srg) for e in shown] == [("blue-best", 0.75), ("blue-worst", 0.25)]
    assert np.array_equal(shown[1].tile.image, split.images[5].numpy())
    assert [e.file for e in shown] == ["toy/1", "toy/5"]
    assert all(e.evidence is None for e in shown)


def test_an_empty_choice_is_an_empty_gallery(tmp_path: Path) -> None:
    assert items(toys.network(), toys.split(4), WHOLE, [], scored(), *2 * [ATTENTION]) == []
    gallery.write(tmp_path / "gallery", [], Style(), 50)
    assert list((tmp_path / "gallery").iterdir()) == []


def test_a_gallery_replaces_the_one_before_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    folder.mkdir()
    (folder / "cat-worst.png").touch()
    model, split, table = toys.network().eval(), toys.split(4), scored(0.5)
    shown = items(model, split, WHOLE, by_srg(table, split.labels, NAMES), table, *2 * [ATTENTION])
    with pytest.raises(AttributeError):
        gallery.write(folder, [*shown, None], Style(), 50)  # type: ignore[list-item]
    assert [path.name for path in folder.iterdir()] == ["cat-worst.png"]
    assert list(tmp_path.iterdir()) == [folder]
    gallery.write(folder, shown, Style(), 50)
    assert [path.name for path in folder.iterdir()] == ["red-best.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["gallery"]
