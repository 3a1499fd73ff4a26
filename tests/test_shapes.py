"""The data set `shapes`: its truth is exact, and its layers do not depend on each other."""

import hashlib
from typing import Any

import numpy as np
import pytest

from abn import shapes
from abn.shapes import CLASSES, MASK, Sample, layers, render

LOOK: dict[str, Any] = {"clutter": 0.35, "distractors": 3, "diameter": (0.38, 0.48)}


def picture(index: int, size: int = 64, **changes: Any) -> Sample:
    return render(7, "val", index, size, **(LOOK | changes))


def stack(index: int) -> dict[str, list[shapes.Patch]]:
    return layers(7, "val", index, 64, **LOOK)


def same(a: list[shapes.Patch], b: list[shapes.Patch]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


def luminance(pixels: np.ndarray) -> float:
    return float((pixels @ [0.299, 0.587, 0.114]).mean())


def test_twenty_reference_pictures_are_what_they_were() -> None:
    digest = hashlib.sha256()
    for index in range(20):
        sample = render(0, "train", index, 64, **LOOK)
        digest.update(sample.image.tobytes() + sample.mask.tobytes())
    assert digest.hexdigest() == "858ea7c23262f1ca52c79625cb138249b706483dddf2689f08aa1b27f1cdb491"


def test_a_picture_is_rgb_bytes_with_a_label_and_a_mask() -> None:
    image, label, mask = picture(13, 48)
    assert image.shape == (48, 48, 3) and image.dtype == np.uint8
    assert mask.shape == (48, 48) and mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 1, 2}
    assert CLASSES[label] == "square"


@pytest.mark.parametrize("key", [(8, "val", 3), (7, "train", 3), (7, "val", 13)])
def test_seed_split_and_index_each_change_the_picture(key: tuple[int, str, int]) -> None:
    assert np.array_equal(picture(3).image, picture(3).image)
    assert not np.array_equal(picture(3).image, render(*key, 64, **LOOK).image)


def test_labels_are_balanced_at_any_count() -> None:
    counts = np.bincount([picture(index, 16).label for index in range(34)], minlength=10)
    assert len(CLASSES) == 10 and set(counts) == {3, 4}


@pytest.mark.parametrize("index", range(10))
def test_the_mask_is_the_pixels_that_the_target_fills_at_least_half(
    index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "GRAIN", 0)  # two flat colours: a pixel's change is its share
    plain = {"clutter": 0, "distractors": 0}
    image, _, mask = picture(index, **plain)
    change = np.abs(image - picture(index, without=["target"], **plain).image.astype(int)).sum(2)
    assert np.array_equal(mask == 1, change > change.max() * 15 / 32)  # shares are sixteenths


@pytest.mark.parametrize("index", range(10))
def test_every_pixel_of_the_target_differs_from_the_picture_without_it(index: int) -> None:
    image, _, mask = picture(index)
    change = np.any(image != picture(index, without=["target"]).image, axis=2)
    assert change[mask == 1].all()
    assert not change[stack(index)["target"][0].coverage == 0].any()


@pytest.mark.parametrize("layer", MASK)
def test_a_layer_left_out_changes_nothing_that_it_did_not_cover(layer: str) -> None:
    index = next(i for i in range(10) if stack(i)["distractors"])
    full, rest = picture(index), picture(index, without=[layer])
    seen = np.ones((64, 64), bool)  # pixels that do not show the layer
    for name, patches in stack(index).items():
        for patch in patches:
            seen = seen & (patch.coverage == 0) if name == layer else seen | (patch.coverage == 255)
    assert 0 < seen.sum() < seen.size
    assert np.array_equal(full.image[seen], rest.image[seen])
    assert not np.array_equal(full.image, rest.image)
    assert np.array_equal(np.where(full.mask == MASK[layer], 0, full.mask), rest.mask)


@pytest.mark.parametrize("layer", MASK)
def test_a_layer_drawn_anew_leaves_the_others_as_they_were(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another(seed: int, split: str, index: int, name: str) -> np.random.Generator:
        return stream(seed, split, index + 99 if name == layer else index, name)

    before, stream = [stack(index) for index in range(8)], shapes._stream
    monkeypatch.setattr(
        shapes,
        "_stream",
        lambda seed, split, i, of: stream(seed, split, i + 99 * (of == layer), of),
    )
    after = [stack(index) for index in range(8)]
    for name in MASK:
        kept = [same(a[name], b[name]) for a, b in zip(before, after, strict=True)]
        assert all(kept) == (name != layer)


def test_no_two_layers_draw_the_same_numbers() -> None:
    first = {shapes._stream(7, "val", 3, name).random() for name in ("scene", *MASK)}
    assert len(first) == 4


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
        image, _, mask = picture(index, clutter=clutter, distractors=0)
        behind = picture(index, clutter=clutter, distractors=0, without=["target"]).image
        assert abs(luminance(image[mask == 1]) - luminance(behind[mask == 1])) >= 60


def test_clutter_is_the_amplitude_of_the_background() -> None:
    def spread(clutter: float) -> float:
        bare = picture(1, clutter=clutter, without=["target", "distractors"]).image
        return float(np.ptp(bare @ [0.299, 0.587, 0.114]) / 255)

    assert spread(0) == 0
    assert 0.1 < spread(0.35) < 0.36
    assert spread(0.35) < spread(1)


def test_a_target_is_whole_and_off_centre_and_as_large_as_asked() -> None:
    for index in range(0, 400, 10):  # discs, whose extent is their diameter
        rows, columns = np.nonzero(picture(index).mask == 1)
        extent = np.array([np.ptp(rows), np.ptp(columns)]) + 1
        assert np.all((extent >= 0.38 * 64 - 1) & (extent <= 0.48 * 64 + 2))
        assert np.hypot(rows.mean() - 31.5, columns.mean() - 31.5) >= 0.1 * 64 - 0.5


def test_outlines_reach_but_do_not_leave_the_unit_circle() -> None:
    for name, outline in shapes.OUTLINES.items():
        reach = max(np.hypot(*contour.T).max() for contour in outline)
        assert 0.97 < reach <= 1.0001, name


def test_distractors_are_small_and_apart_from_the_target_and_of_any_number_up_to_the_most() -> None:
    counts = np.zeros(4, int)
    for index in range(200):
        patches = stack(index)
        target = patches["target"][0].coverage > 0
        counts[len(patches["distractors"])] += 1
        for patch in patches["distractors"]:
            assert not (target & (patch.coverage > 0)).any()
            assert 0 < (patch.coverage > 0).sum() < (0.18 * 64 + 2) ** 2
    assert counts.min() >= 30


def test_a_picture_is_the_same_at_any_size() -> None:
    for index in range(5):
        large = picture(index, 256).image.reshape(64, 4, 64, 4, 3).mean((1, 3))
        assert np.abs(large - picture(index).image).mean() < 3
