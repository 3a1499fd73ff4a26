"""`abn.load` and `predict`: the decisions of the evaluate stage, from image files."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import abn
from abn.config.params import Attention
from abn.data.loader import CenterCrop
from abn.datasets import images
from abn.inference.prediction import Prediction
from abn.inference.predictor import Predictor
from abn.models.abn import AttentionBranchNetwork
from abn.predict import energy, predict
from abn.runtime.errors import DataError, DeviceError
from tests import toys


def predictor(size: int = 32, resize: int = 32) -> Predictor:
    return Predictor(toys.network(), toys.NAMES, size, resize, toys.CPU)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an untrained network for two classes."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoint"
    return toys.saved(folder, ("cat", "dog"), resize=40, canvas=48, unlike_below=-3.5)


@pytest.mark.parametrize(("size", "resize"), [(32, 32), (32, 40)])
def test_decisions_confidences_and_maps_are_those_of_the_evaluate_stage(
    size: int, resize: int
) -> None:
    split, ours = toys.split(20), predictor(size, resize)
    expected = predict(toys.network(), split, CenterCrop(size, resize), 20, toys.CPU)
    predictions = ours.predict(list(split.images.numpy()), top=4)
    labels = expected.logits.argmax(1).tolist()
    assert [p.label for p in predictions] == [toys.NAMES[label] for label in labels]
    for i, prediction in enumerate(predictions):
        shares = [prediction.classes[name] for name in toys.NAMES]
        branch = [prediction.attention_confidences[name] for name in toys.NAMES]
        assert shares == pytest.approx(expected.logits[i].softmax(0).tolist(), abs=1e-5)
        assert branch == pytest.approx(expected.attention_logits[i].softmax(0).tolist(), abs=1e-5)
        assert prediction.map == pytest.approx(expected.attention[i].numpy(), abs=1e-5)


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png"])
def test_a_photo_is_seen_through_the_very_pixels_of_its_packed_canvas(
    name: str, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).resize((600, 400)).save(tmp_path / name)
    canvas, aspect = images.square(images.decode(tmp_path / name, name, 48), 48)
    packed = toys.split(1)
    packed = dataclasses.replace(
        packed, images=torch.from_numpy(canvas)[None], aspect=torch.tensor([aspect])
    )
    expected = predict(toys.network(), packed, CenterCrop(32, 40), 1, toys.CPU)
    ours = Predictor(toys.network(), toys.NAMES, 32, 40, toys.CPU, canvas=48)
    prediction = ours.predict(tmp_path / name)
    shares = [prediction.classes[name] for name in toys.NAMES]
    assert shares == expected.logits[0].softmax(0).tolist()
    assert prediction.energy == energy(expected.logits).item()  # as the threshold was measured
    assert prediction.image.shape == (400, 600, 3) and prediction.region == (40, 140, 320, 320)
    of_pil = ours.predict(Image.open(tmp_path / name))
    assert of_pil.classes == pytest.approx(prediction.classes, abs=0.02)  # Pillow drafts no copy


def test_an_image_is_unlike_the_training_data_where_its_score_is_below_the_checkpoints() -> None:
    images = list(toys.split(2).images.numpy())
    low, high = sorted(predictor().predict(images), key=lambda said: said.energy)
    assert low.energy < high.energy and low.unlike is high.unlike is None  # no word without one
    ours = predictor()
    ours.unlike_below = (low.energy + high.energy) / 2
    words = {said.energy: said.unlike for said in ours.predict(images)}
    assert words == {low.energy: True, high.energy: False}
    edited = ours.decide(images[0], np.ones(ours.grid, np.float32))
    assert edited.unlike is None  # the score is of the network's own map


def test_a_wide_image_is_seen_in_its_central_square_without_distortion() -> None:
    square = toys.split(1).images[0].numpy()
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = square
    inside, alone = predictor().predict([wide, square])
    assert inside.region == (0, 32, 32, 32)
    assert inside.classes == pytest.approx(alone.classes, abs=0.05)  # its edges see the black


def test_confidences_come_most_confident_first_and_as_many_as_asked_for() -> None:
    prediction = predictor().predict(toys.split(1).images[0].numpy(), top=3)
    confidences = list(prediction.classes.values())
    assert len(confidences) == len(prediction.attention_confidences) == 3
    assert confidences == sorted(confidences, reverse=True)


def test_more_images_than_a_batch_and_none() -> None:
    images = toys.split(35).images.numpy()
    assert len(predictor().predict(images)) == 35
    assert predictor().predict([]) == []


def test_path_pil_image_and_array_are_the_same_image(tmp_path: Path) -> None:
    pixels = toys.split(1).images[0].numpy()
    image = Image.fromarray(pixels)
    image.save(tmp_path / "red.png")
    path = tmp_path / "red.png"
    several = predictor().predict([path, str(path), image, pixels])
    assert {repr(p) for p in several} == {repr(predictor().predict(path))}


def test_the_bytes_of_a_photo_are_the_photo(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).resize((600, 400)).save(tmp_path / "a.jpg")
    ours = Predictor(toys.network(), toys.NAMES, 32, 40, toys.CPU, canvas=48)
    content = (tmp_path / "a.jpg").read_bytes()
    expected = repr(ours.predict(tmp_path / "a.jpg"))
    assert [repr(p) for p in (ours.predict(content), *ours.predict([content]))] == [expected] * 2


@pytest.mark.parametrize("attention", ["residual", "look"])
def test_an_edited_map_changes_what_the_perception_branch_says_and_nothing_else(
    attention: Attention,
) -> None:
    ours = Predictor(toys.network(attention=attention), toys.NAMES, 32, 32, toys.CPU)
    pixels = toys.split(1).images[0].numpy()
    own, dark = ours.predict(pixels), np.zeros(ours.grid, np.float32)
    assert repr(ours.decide(pixels, own.map)) == repr(own)
    hidden = ours.decide(pixels, dark)
    assert hidden.attention_confidences == own.attention_confidences
    assert hidden.classes != own.classes and not hidden.map.any()
    both = ours.answer([ours.read(pixels)] * 2, 5, [None, dark])
    assert both[0].classes == pytest.approx(own.classes, abs=1e-6)
    assert both[1].classes == pytest.approx(hidden.classes, abs=1e-6)


@pytest.mark.parametrize(
    "attention", [np.ones((4, 5)), np.full((4, 4), 1.1), np.full((4, 4), np.nan)]
)
def test_a_map_of_another_shape_or_range_is_refused(attention: np.ndarray) -> None:
    with pytest.raises(DataError, match="a map of 4 x 4 cells in 0 to 1 is needed"):
        predictor().decide(toys.split(1).images[0].numpy(), attention.astype(np.float32))


def test_the_exif_orientation_is_respected(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees to the right
    lying = np.zeros((20, 40, 3), np.uint8)
    lying[:, :20] = 200  # the left half, which is the upper one when it is turned
    Image.fromarray(lying).save(tmp_path / "a.png", exif=exif)
    for image in (tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        upright = predictor().predict(image).image
        assert upright.shape == (40, 20, 3)
        assert upright[:20].min() == 200 and upright[20:].max() == 0


def test_the_overlay_colours_what_was_seen_and_nothing_else() -> None:
    image = np.full((4, 8, 3), 90, np.uint8)
    flat = np.full((2, 2), 0.4, np.float32)
    prediction = Prediction({"a": 1.0}, {"a": 1.0}, flat, image, (0, 2, 4, 4))
    expected = image.copy()
    expected[:, 2:6] = (90, 90, 90 + 128)  # a constant map has JET's lowest colour
    np.testing.assert_array_equal(prediction.overlay, expected)
    assert image.max() == 90


def test_a_prediction_reads_as_a_line() -> None:
    drawn = np.array([[0.25, 0.5]], np.float32)
    shown = Prediction({"cat": 0.9, "dog": 0.1}, {"cat": 0.75}, drawn, np.zeros(0), (0, 0, 1, 1))
    assert repr(shown) == (
        "Prediction(cat 0.900, dog 0.100; attention branch: cat 0.750; map 1x2 from 0.250 to 0.500)"
    )


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("missing.png", "no such image; missing.png; check the path"),
        (np.zeros((4, 4, 3), np.float32), r"array float32 \[4, 4, 3\]; give a path, a PIL"),
        (np.zeros((4, 4), np.uint8), r"array uint8 \[4, 4\]"),
        ([np.zeros((0, 4, 3), np.uint8)], r"array uint8 \[0, 4, 3\]"),
        ([7], "not an image; int; give a path"),
        (7, "not an image; int; give a path"),
        (None, "not an image; NoneType; give a path"),
        (torch.zeros(3, 32, 32), "not an image; Tensor; give a path"),
        (Image.new("RGB", (0, 9)), "mode RGB, 0 x 9 pixels; give a path"),
        (Image.new("F", (9, 9)), "mode F, 9 x 9 pixels; give a path"),
        (Image.new("RGB", (7, 9)), "7 x 9 pixels, a side under 8; Image; use a larger"),
        (np.zeros((9, 7, 3), np.uint8), "7 x 9 pixels, a side under 8; ndarray; use a larger"),
    ],
)
def test_what_is_not_an_image_is_refused_in_one_line(image: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        predictor().predict(image)  # type: ignore[call-overload]


@pytest.mark.parametrize("top", [0, -1, 2.5, None])
def test_a_number_of_classes_that_is_none_is_a_value_error(top: object) -> None:
    with pytest.raises(ValueError, match=f"top is {top!r}, not a whole number of classes"):
        predictor().predict(toys.split(1).images[0].numpy(), top=top)  # type: ignore[call-overload]


def test_a_damaged_picture_that_pillow_opens_late_is_refused(tmp_path: Path) -> None:
    Image.fromarray(toys.split(1).images[0].numpy()).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with (
        Image.open(tmp_path / "a.png") as image,
        pytest.raises(DataError, match="PngImageFile; replace the image"),
    ):
        predictor().predict(image)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"not an image of the kinds .*a\.png"):
        predictor().predict(tmp_path / "a.png")


def test_load_takes_classes_and_view_from_the_header(saved: Path) -> None:
    model = abn.load(saved, device="cpu")
    assert (model.classes, model.size, model.resize) == (("cat", "dog"), 32, 40)
    assert (model.canvas, model.arch, model.unlike_below) == (48, "resnet18", -3.5)
    prediction = model.predict(np.full((40, 60, 3), 90, np.uint8))
    assert prediction.region == (4, 14, 32, 32)
    assert prediction.map.shape == (2, 2) and prediction.classes.keys() == {"cat", "dog"}


def test_a_missing_checkpoint_and_a_missing_device_are_refused(saved: Path) -> None:
    with pytest.raises(DataError, match="no such checkpoint"):
        abn.load("elsewhere.safetensors")
    with pytest.raises(DeviceError, match="device=gpu; use cpu, cuda or cuda:N"):
        abn.load(saved, device="gpu")


def test_import_abn_imports_nothing_heavy_and_offers_the_public_names() -> None:
    code = "import sys, abn; print('torch' in sys.modules, abn.__version__, *dir(abn))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported, version, *names = run.stdout.split()
    assert (imported, version) == ("False", abn.__version__)
    assert {"AttentionBranchNetwork", "Prediction", "load"} <= set(names)
    assert abn.AttentionBranchNetwork is AttentionBranchNetwork
    with pytest.raises(AttributeError, match="module 'abn' has no attribute 'lod'"):
        abn.lod  # noqa: B018  # the access is the test
