"""The data set `shapes`: its truth is exact, and its layers do not depend on each other."""

import hashlib
from typing import Any

import cv2
import numpy as np
import pytest

from abn.config.params import Shapes
from abn.data.packed import Sample
from abn.datasets import shapes
from abn.datasets.shapes import CLASSES, COLOURS, MASK, Piece, layers, render

LOOK = Shapes(train=1, val=1, clutter=0.35, distractors=3, diameter=(0.38, 0.48), shortcut=None)
PATCHED: dict[str, Any] = {"shortcut": 0.5}
SCENE = shapes.Scene(np.array([0.6, 0.6]), 0.5, 0.5, 0.9)


def looking(changes: dict[str, Any]) -> Shapes:
    """LOOK with those of `changes` that are about it, which are taken out."""
    about = {key: changes.pop(key) for key in list(changes) if key in Shapes.model_fields}
    return LOOK.model_copy(update=about)


def picture(index: int, size: int = 64, **changes: Any) -> Sample:
    return render(7, "val", index, size, looking(changes), **changes)


def stack(index: int, **changes: Any) -> dict[str, list[Piece]]:
    changes = PATCHED | changes
    return layers(7, "val", index, 64, looking(changes), **changes)


def same(a: list[Piece], b: list[Piece]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


def luminance(pixels: np.ndarray) -> float:
    return float((pixels @ [0.299, 0.587, 0.114]).mean())


def test_twenty_reference_pictures_are_what_they_were() -> None:
    digest = hashlib.sha256()
    for index in range(20):
        sample = render(0, "train", index, 64, LOOK)
        digest.update(sample.image.tobytes() + sample.mask.tobytes())
    assert digest.hexdigest() == "f59a8f9808672c72051a254bac5ca3a08c96e4a70e852c19fbc026846244eb46"


def test_a_picture_is_rgb_bytes_with_a_label_and_a_mask() -> None:
    image, label, _, mask = picture(13, 48)
    assert image.shape == (48, 48, 3) and image.dtype == np.uint8
    assert mask.shape == (48, 48) and mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 1, 2}
    assert CLASSES[label] == "square"


@pytest.mark.parametrize("key", [(8, "val", 3), (7, "train", 3), (7, "val", 13)])
def test_seed_split_and_index_each_change_the_picture(key: tuple[int, str, int]) -> None:
    assert np.array_equal(picture(3).image, picture(3).image)
    assert not np.array_equal(picture(3).image, render(*key, 64, LOOK).image)


def test_labels_are_balanced_at_any_count() -> None:
    counts = np.bincount([picture(index, 16).label for index in range(34)], minlength=10)
    assert len(CLASSES) == 10 and set(counts) == {3, 4}


@pytest.mark.parametrize("index", range(10))
def test_the_mask_is_the_pixels_that_the_target_fills_at_least_half(
    index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "GRAIN", 0)  # two flat colours: a pixel's change is its share
    plain = {"clutter": 0, "distractors": 0}
    image, _, _, mask = picture(index, **plain)
    change = np.abs(image - picture(index, without=["target"], **plain).image.astype(int)).sum(2)
    assert np.array_equal(mask == 1, change > change.max() * 15 / 32)  # shares are sixteenths


@pytest.mark.parametrize("index", range(10))
def test_every_pixel_of_the_target_differs_from_the_picture_without_it(index: int) -> None:
    image, _, _, mask = picture(index)
    change = np.any(image != picture(index, without=["target"]).image, axis=2)
    assert change[mask == 1].all()
    assert not change[stack(index)["target"][0].coverage == 0].any()


@pytest.mark.parametrize("layer", MASK)
def test_a_layer_left_out_changes_nothing_that_it_did_not_cover(layer: str) -> None:
    index = next(i for i in range(10) if stack(i)["distractors"])
    full, rest = picture(index, **PATCHED), picture(index, without=[layer], **PATCHED)
    seen = np.ones((64, 64), bool)  # pixels that do not show the layer
    for name, pieces in stack(index).items():
        for piece in pieces:
            seen = seen & (piece.coverage == 0) if name == layer else seen | (piece.coverage == 255)
    assert 0 < seen.sum() < seen.size
    assert np.array_equal(full.image[seen], rest.image[seen])
    assert not np.array_equal(full.image, rest.image)
    outside = full.mask != MASK[layer]
    assert np.array_equal(full.mask[outside], rest.mask[outside])
    assert not (rest.mask == MASK[layer]).any() or layer == "background"


@pytest.mark.parametrize("layer", MASK)
def test_a_layer_redrawn_leaves_the_others_as_they_were(layer: str) -> None:
    before = [stack(index) for index in range(8)]
    after = [stack(index, redrawn={layer: index + 99}) for index in range(8)]
    for name in MASK:
        kept = [same(a[name], b[name]) for a, b in zip(before, after, strict=True)]
        assert all(kept) == (name != layer)


def test_a_layer_is_redrawn_from_the_stream_of_the_other_picture() -> None:
    swapped = picture(3, redrawn={"background": 12}, clutter=1, without=["target", "distractors"])
    other = picture(12, clutter=1, without=["target", "distractors"])  # full clutter: one luminance
    assert np.array_equal(swapped.image, other.image)


def test_the_patch_is_painted_over_a_picture_that_stays_as_it_was() -> None:
    for index in range(20):
        plain, patched = picture(index), picture(index, shortcut=1.0)
        outside = stack(index)["patch"][0].coverage == 0
        assert np.array_equal(plain.image[outside], patched.image[outside])
        assert np.array_equal(plain.mask == 1, patched.mask == 1)  # never over the target
        bare = picture(index, shortcut=1.0, without=["patch"])
        assert np.array_equal(bare.image, plain.image) and np.array_equal(bare.mask, plain.mask)


def test_the_patch_is_a_square_at_the_border_of_one_colour_and_clear_of_the_target() -> None:
    touched = np.zeros(4, int)
    for index in range(60):
        image, label, _, mask = picture(index, 100, shortcut=1.0, diameter=(0.5, 0.6))
        where = np.argwhere(mask == 3)
        low, high = where.min(0), where.max(0)
        assert set(high - low + 1) <= {19, 20, 21}  # 20, give or take the rounding of its edges
        assert len(where) == np.prod(high - low + 1)
        assert (image[tuple((low + high) // 2)] == COLOURS[label]).all()
        touches = np.array([*(low == 0), *(high == 99)])
        touched += touches
        assert touches.any()
        target = np.argwhere(mask == 1)
        assert np.hypot(*(target[:, None] - where[[0, -1]]).reshape(-1, 2).T).min() >= 3
    assert touched.min() >= 8


@pytest.mark.parametrize("shortcut", [0.0, 0.1, 0.8, 1.0])
def test_the_patch_shows_the_class_as_often_as_asked_and_else_any_other(shortcut: float) -> None:
    away = np.zeros(10, int)  # how often its colour is that of the class so many further on
    for index in range(500):
        rng = shapes._stream(7, "val", index, "patch")
        patch = shapes._patch(rng, 8, SCENE, index % 10, shortcut, None)
        shown = (np.rint(255 * patch.colour[:, 0, 0]) == COLOURS).all(1).argmax()
        away[(shown - index) % 10] += 1
    assert abs(away[0] - 500 * shortcut) <= 3 * np.sqrt(500 * shortcut * (1 - shortcut))
    rest = 500 * (1 - shortcut) / 9
    assert np.all(abs(away[1:] - rest) <= 3.5 * np.sqrt(rest))


def test_the_patch_takes_another_colour_and_nothing_else_changes() -> None:
    for index in range(10):
        drawn, red = (stack(index, colour=colour) for colour in (None, 0))
        assert np.array_equal(drawn["patch"][0].coverage, red["patch"][0].coverage)
        assert red["patch"][0].colour.ravel().tolist() == [1, 0, 0]
        assert all(same(drawn[name], red[name]) for name in MASK if name != "patch")


def test_the_colours_of_the_patch_are_saturated_and_far_apart() -> None:
    lab = cv2.cvtColor(COLOURS[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    apart = np.linalg.norm(lab[:, None] - lab, axis=2)[~np.eye(10, dtype=bool)]
    assert COLOURS.shape == (10, 3) and apart.min() > 62
    assert np.ptp(COLOURS, axis=1).min() >= 130


def test_the_class_decides_the_outline_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stack(4)
    monkeypatch.setattr(shapes, "CLASSES", CLASSES[::-1])
    after = stack(4)
    assert same(before["background"], after["background"])
    assert same(before["distractors"], after["distractors"])
    assert np.array_equal(before["target"][0].colour, after["target"][0].colour)
    assert not np.array_equal(before["target"][0].coverage, after["target"][0].coverage)


@pytest.mark.parametrize("clutter", [0, 0.2, 0.35, 0.5])
def test_the_target_stands_out_from_what_lies_behind_it(clutter: float) -> None:
    for index in range(100):
        image, _, _, mask = picture(index, clutter=clutter, distractors=0)
        behind = picture(index, clutter=clutter, distractors=0, without=["target"]).image
        assert abs(luminance(image[mask == 1]) - luminance(behind[mask == 1])) >= 40


def test_clutter_is_the_amplitude_of_the_texture_and_adds_eight_strokes_at_most() -> None:
    def spread(clutter: float) -> float:
        texture, *strokes = stack(1, clutter=clutter)["background"]
        assert len(strokes) == round(8 * clutter)
        shades = np.tensordot([0.299, 0.587, 0.114], texture.colour, 1)
        return float(np.ptp(shades))

    assert spread(0) == 0
    assert 0.1 < spread(0.35) < 0.36
    assert spread(0.35) < spread(1)


def test_strokes_are_painted_over_the_texture_and_under_all_else() -> None:
    background = stack(2, clutter=1.0)["background"]
    assert (background[0].coverage == 255).all()
    for colour, coverage in background[1:]:
        assert colour.shape == (3, 1, 1) and (coverage == 0).any()
    assert (picture(2, without=["target", "distractors"], clutter=1.0).mask == 0).all()


def test_the_edges_of_the_target_are_not_what_gives_it_away() -> None:
    def ratio(clutter: float) -> float:
        """The mean slope of the luminance on the target and its rim, over that elsewhere."""
        on, off = list[float](), list[float]()
        for index in range(50):
            image, _, _, mask = picture(index, clutter=clutter, distractors=0)
            slope = np.hypot(*np.gradient(image @ [0.299, 0.587, 0.114]))
            near = cv2.dilate((mask == 1).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            on.append(slope[near].mean())
            off.append(slope[~near].mean())
        return float(np.mean(on) / np.mean(off))

    assert ratio(0) > 20  # a flat background has none
    assert 1 < ratio(0.35) < 2


def test_a_target_is_whole_and_off_centre_and_as_large_as_asked() -> None:
    for index in range(0, 400, 10):  # discs, whose extent is their diameter
        rows, columns = np.nonzero(picture(index).mask == 1)
        extent = np.array([np.ptp(rows), np.ptp(columns)]) + 1
        assert np.all((extent >= 0.38 * 64 - 1) & (extent <= 0.48 * 64 + 2))
        assert np.hypot(rows.mean() - 31.5, columns.mean() - 31.5) >= 0.1 * 64 - 0.5


def test_distractors_are_small_and_apart_from_the_target_and_of_any_number_up_to_the_most() -> None:
    counts = np.zeros(4, int)
    for index in range(200):
        pieces = stack(index)
        target = pieces["target"][0].coverage > 0
        counts[len(pieces["distractors"])] += 1
        for piece in pieces["distractors"]:
            assert not (target & (piece.coverage > 0)).any()
            assert 0 < (piece.coverage > 0).sum() < (0.18 * 64 + 2) ** 2
    assert counts.min() >= 30
