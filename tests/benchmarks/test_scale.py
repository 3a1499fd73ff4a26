"""The benchmark of large data sets: its files are all different, its arithmetic is right."""

import io

import numpy as np
import pytest
from PIL import Image

from benchmarks import scale
from benchmarks.measure import Turn


def coded(picture: np.ndarray) -> np.ndarray:
    """The pixels that a JPEG file of `picture` keeps."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=scale.QUALITY)
    return np.array(Image.open(file))


def test_every_copy_of_a_picture_has_other_pixels_also_as_a_jpeg_file() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    numbers = [0, 1, 2, 3, 255, 256, 2**15, 2**16 - 1]
    copies = [coded(scale.stamped(noise, number)) for number in numbers]
    assert len({copy.tobytes() for copy in copies}) == len(numbers)
    for copy, number in zip(copies, numbers, strict=True):
        middles = copy[8::16, 8::16].mean(2).flatten()[: scale.BITS]
        assert [bool(value > 127) for value in middles] == [number >> b & 1 for b in range(16)]


def test_steps_are_taken_in_rounds_and_the_first_is_not_counted() -> None:
    asked = []

    def play(steps: int) -> Turn:
        asked.append(steps)
        return Turn(steps, 1.0, 0.0)

    assert sum(turn.images for turn in scale.rounds(play, 120, 50)) == 120
    assert asked == [1, 50, 50, 20]


def test_imagenet_is_its_pieces_times_its_images() -> None:
    """1,331,167 images at a tenth of a megabyte; 100 seconds for a thousandth of them."""
    images = 1_331_167 / 1000
    found = {
        "watch": {"seconds_of_repro": 12.0, "seconds_of_status": 0.6},
        "pack": {"images": images, "gb": 0.1331167, "seconds": 100.0},
        "hash": {"gb": 0.1, "seconds_of_md5": 0.2, "seconds_of_sha256": 0.1},
        "draws": {"seconds_of_draws": 3.0},
    }
    assert scale.imagenet(found) == {
        "images": 1_331_167,
        "packed_gb": pytest.approx(133.1167),
        "hours_to_pack": pytest.approx(100_000 / 3600),
        "minutes_of_dvc_at_first": pytest.approx(200.0),
        "minutes_of_dvc_again": pytest.approx(10.0),
        "minutes_to_hash": pytest.approx(133.1167 * 2 / 60),
        "minutes_to_start": pytest.approx(133.1167 / 60),
        "seconds_to_draw_an_epoch": 3.0,
    }
