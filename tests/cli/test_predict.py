"""`abn predict`: what it prints, what it writes, what it refuses and what it never touches."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import abn
from abn.cli.main import main
from abn.inference import picture, predictor, results_folder
from abn.inference.predictor import Predictor
from abn.models import checkpoint
from tests import toys

CHECKPOINT = "checkpoint/model.safetensors"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained network and four images, two of the same name, one damaged."""
    folder = tmp_path_factory.mktemp("project")
    toys.saved(folder / "checkpoint", ("cat", "=dog"), canvas=48)
    noise = np.random.default_rng(0).integers(0, 255, (3, 40, 60, 3), np.uint8)
    for name, pixels in zip(("a/x.jpg", "b/x.jpg", "=y.png"), noise, strict=True):
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (folder / "photos" / "bad.png").write_text("not a picture")
    return folder


@pytest.fixture(autouse=True)
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("ABN_DEVICE", "cpu")


@pytest.fixture
def model() -> Predictor:
    return abn.load(CHECKPOINT, device="cpu")


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_line_an_image_and_the_unreadable_at_the_end_with_exit_code_3(
    model: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "photos", "none.png"]) == 3
    out, err = capsys.readouterr()
    files = ["photos/=y.png", "photos/a/x.jpg", "photos/b/x.jpg"]
    assert [line.partition(": ")[0] for line in out.splitlines()] == files
    said = model.predict("photos/a/x.jpg")
    (best, share), (second, rest) = said.classes.items()
    branch = max(said.attention_confidences.items(), key=lambda pair: pair[1])
    words = (
        f"{best} {share:.3f}, {second} {rest:.3f}; attention branch: {branch[0]} {branch[1]:.3f}"
    )
    assert out.splitlines()[1] == f"photos/a/x.jpg: {words}"
    lines = err.splitlines()
    assert lines[0] == "map: verdict unknown: no metrics/explain.json beside the checkpoint"
    assert lines[1].startswith("error[DATA] not an image of the kinds")
    assert lines[2] == "error[DATA] no such image; none.png; check the path"
    assert lines[3] == "2 of 5 images could not be read"


def test_json_is_an_object_a_line_with_the_map_and_the_seen_region(
    model: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "photos/a/x.jpg", "photos/bad.png", "--json"]) == 3
    image, bad = map(json.loads, capsys.readouterr().out.splitlines())
    said = model.predict("photos/a/x.jpg")
    assert image["classes"] == pytest.approx(said.classes, abs=1e-6)
    assert (image["prediction"], image["region"]) == (said.label, [0, 10, 40, 40])
    np.testing.assert_allclose(image["map"], said.map, atol=1e-6)
    assert image["sha256"] == hashlib.sha256(Path("photos/a/x.jpg").read_bytes()).hexdigest()
    assert image["verdict"] == "unknown"
    assert bad["file"] == "photos/bad.png" and bad["error"].startswith("not an image")


def test_the_folder_has_a_row_and_overlays_for_each_image_and_says_what_made_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["predict", "photos", "--to", str(out), "--map", "both"]) == 3
    overlays = {f"overlays/{x}.{kind}.jpg" for x in ("=y.png", "a/x.jpg", "b/x.jpg")
                for kind in ("attention", "class")}  # fmt: skip
    assert content(out).keys() == overlays | {"predictions.csv", "manifest.json"}
    with (out / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["photos/=y.png", "photos/a/x.jpg", "photos/b/x.jpg"]
    assert {row["prediction"] for row in rows} <= {"cat", "'=dog"}
    assert float(rows[0]["confidence"]) + float(rows[0]["confidence_2"]) == pytest.approx(1)
    assert (rows[0]["top"], rows[0]["left"], rows[0]["height"], rows[0]["width"]) == (
        ("0", "10", "40", "40")
    )
    assert rows[1]["class_overlay"] == "overlays/a/x.jpg.class.jpg"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["network"]["sha256"] == checkpoint.sha256(Path(CHECKPOINT))
    network = manifest["network"]
    assert (network["arch"], network["attention"], network["size"], network["resize"]) == (
        ("resnet18", "residual", 32, 32)
    )
    assert network["classes"] == ["cat", "=dog"] and manifest["unlike_training_data"] is None
    assert {row["unlike_training_data"] for row in rows} == {"unknown"}
    assert manifest["unreadable"].keys() == {"photos/bad.png"}
    assert manifest["map"]["verdict"] == "unknown" and not manifest["interrupted"]
    assert manifest["wrote"].keys() == overlays | {"predictions.csv"}


def test_images_unlike_the_training_data_are_named_counted_and_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = toys.saved(tmp_path / "strict", ("cat", "dog"), canvas=48, unlike_below=1e9)
    command = ["predict", "photos/a", "photos/b", "--checkpoint", str(strict)]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert [line.endswith("; unlike the training data") for line in out.splitlines()] == [True] * 2
    assert "unlike the training data: 2 of 2 images" in err.splitlines()
    assert main([*command, "--json"]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["unlike_training_data"] for each in objects] == [True, True]
    assert main([*command, "--to", str(tmp_path / "out")]) == 0
    with (tmp_path / "out/predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["unlike_training_data"] for row in rows] == ["yes", "yes"]
    energies = [f"{each['energy']:.6f}" for each in objects]
    assert [row["energy"] for row in rows] == energies
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["unlike_training_data"] == 2 and manifest["network"]["unlike_below"] == 1e9


def test_an_overlay_has_the_image_size_its_pixels_outside_and_a_line_around_what_was_seen(
    tmp_path: Path,
) -> None:
    pixels = np.full((400, 800, 3), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    main(["predict", str(tmp_path / "grey.png"), "--to", str(tmp_path / "out")])
    drawn = np.array(Image.open(tmp_path / "out/overlays/grey.png.attention.jpg")).astype(int)
    assert drawn.shape == (400, 800, 3)
    assert abs(drawn[:, :180] - 90).max() < 6  # JPEG
    assert abs(drawn[:, 230:570] - 90).max() > 60  # colours
    assert drawn[200, 200:202].min() > 200  # the left edge of the central 400 x 400


def test_a_large_file_that_changed_after_its_answer_keeps_its_row_and_has_no_overlay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(picture, "KEPT", 0)
    monkeypatch.setattr(results_folder, "read_bytes", lambda path: b"another")
    assert main(["predict", "photos/a", "--to", str(tmp_path / "out")]) == 3
    assert "error[DATA] changed while it was read; photos/a/x.jpg" in capsys.readouterr().err
    assert content(tmp_path / "out").keys() == {"predictions.csv", "manifest.json"}
    assert len((tmp_path / "out/predictions.csv").read_text().splitlines()) == 2


def test_the_same_images_give_the_same_bytes_and_replace_their_own_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["predict", "photos/a", "photos/b", "--to", str(out)])
    first = content(out)
    assert main(["predict", "photos/a", "photos/b", "--to", str(out)]) == 0
    assert content(out) == first
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["mine.txt", "overlays/mine.jpg", "predictions.csv"])
def test_a_folder_with_a_file_that_it_did_not_write_is_not_touched(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(["predict", "photos/a", "--to", str(out)])
    (out / name).write_text("mine")
    before = content(out)
    assert main(["predict", "photos/b", "--to", str(out)]) == 5
    assert content(out) == before
    assert f"not as `abn predict` wrote it ({name})" in capsys.readouterr().err


def test_a_folder_of_another_origin_and_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert main(["predict", "photos/a", "--to", str(tmp_path)]) == 5
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert main(["predict", "photos/a", "--to", str(tmp_path / "link")]) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "thesis.tex"]


def test_a_folder_of_another_origin_is_refused_before_it_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be a home or a whole disk; of the working folder the shell would lose its place."""
    (tmp_path / "deep").mkdir()
    monkeypatch.setattr(Path, "rglob", lambda *_: pytest.fail("looked through"))
    assert main(["predict", "photos/a", "--to", str(tmp_path)]) == 5
    assert "not as `abn predict` wrote it (deep)" in capsys.readouterr().err
    photo = str(Path("photos/a").absolute())
    monkeypatch.chdir(tmp_path / "deep")
    assert main(["predict", photo, "--to", "."]) == 5
    assert "the working folder is in it" in capsys.readouterr().err


def test_a_file_whose_name_no_disk_can_hold_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["predict", "x" * 300, "photos/a"]) == 3
    out, err = capsys.readouterr()
    assert "photos/a/x.jpg: " in out and "error[DATA] File name too long; xxx" in err


def test_ctrl_c_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Predictor.stream

    def stopped(*arguments: object) -> object:
        yield next(iter(whole(*arguments)))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "stream", stopped)
        assert main(["predict", "photos/a", "photos/b", "--to", str(tmp_path / "out")]) == 130
    assert json.loads((tmp_path / "out/manifest.json").read_text())["interrupted"]
    assert len((tmp_path / "out/predictions.csv").read_text().splitlines()) == 2
    assert len(list((tmp_path / "out/overlays").rglob("*.jpg"))) == 1
    assert main(["predict", "photos/a", "--to", str(tmp_path / "out")]) == 0  # it is still ours


def test_a_folder_may_have_the_name_of_an_image(project: Path, tmp_path: Path) -> None:
    for name in ("in/a.jpg/x.jpg", "in/b/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(project / "photos/a/x.jpg", tmp_path / name)
    assert main(["predict", str(tmp_path / "in"), "--to", str(tmp_path / "out")]) == 0
    drawn = {path.name for path in (tmp_path / "out/overlays/a.jpg").iterdir()}
    assert drawn == {"x.jpg.attention.jpg"}


def test_what_is_drawn_after_an_interruption_is_not_in_the_folder(
    tmp_path: Path, model: Predictor
) -> None:
    """A second Ctrl-C does not wait for the threads."""
    (answer,) = model.stream([Path("photos/a/x.jpg")])
    (late,) = model.stream([Path("photos/b/x.jpg")])
    folder = tmp_path / "out"
    job = results_folder.Job(folder, [answer.path, late.path], ("attention",), 2)
    with results_folder.results_folder(job) as target:
        target.add(target.draw(answer))
        target.draw(late)
        target.close({})
    assert [path.name for path in (folder / "overlays").rglob("*.jpg")] == ["x.jpg.attention.jpg"]
    results_folder.require_ours(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_image_and_no_network_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(tmp_path / "empty")]) == 3
    assert "no images" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("a.png")
    assert main(["predict", "a.png"]) == 3
    assert "name a network: --checkpoint FILE" in capsys.readouterr().err


@pytest.mark.parametrize("threads_answer", [True, False])
def test_a_stream_gives_what_predict_gives_in_order_over_more_files_than_a_batch(
    threads_answer: bool, tmp_path: Path
) -> None:
    paths = []
    for i, pixels in enumerate(toys.split(35).images.numpy()):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    paths[20].write_text("not a picture")
    ours = Predictor(toys.network(), toys.NAMES, 32, 32, toys.CPU, canvas=32)
    ours.threads_answer = threads_answer
    answers = list(ours.stream(iter(paths)))
    assert [answer.path for answer in answers] == paths
    assert isinstance(answers.pop(20).prediction, Exception)
    expected = ours.predict([path for path in paths if path != paths[20]])
    assert [repr(a.prediction) for a in answers] == [repr(p) for p in expected]
    assert list(ours.stream(paths, 2, lambda answer: answer.path.name)) == [p.name for p in paths]


def test_a_stream_shares_few_files_among_its_threads_and_leaves_the_threads_of_torch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(35)]
    for path in paths:
        Image.new("RGB", (32, 32)).save(path)
    ours = Predictor(toys.network(), toys.NAMES, 32, 32, toys.CPU, canvas=32)
    batches: list[tuple[int, int]] = []
    answer = ours._answers
    monkeypatch.setattr(
        ours,
        "_answers",
        lambda reads, top: (
            batches.append((len(reads), torch.get_num_threads())) or answer(reads, top)
        ),
    )
    monkeypatch.setattr(predictor, "THREADS", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert len(list(ours.stream(paths))) == 35
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert sorted(batches) == [(1, 1), (2, 1), (16, 1), (16, 1)]


def test_a_stream_keeps_small_images_that_were_decoded_whole_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    small, large, shrunk = (tmp_path / name for name in ("small.png", "large.png", "shrunk.jpg"))
    Image.fromarray(noise).save(small)
    Image.fromarray(noise).resize((80, 60)).save(large)
    Image.fromarray(noise).resize((600, 400)).save(shrunk)  # decoded at 1/4: the canvas is small
    monkeypatch.setattr(picture, "KEPT", 60 * 40)
    ours = Predictor(toys.network(), toys.NAMES, 32, 32, toys.CPU, canvas=32)
    kept = [answer.prediction.image for answer in ours.stream([small, large, shrunk])]
    np.testing.assert_array_equal(kept[0], noise)
    assert [image.size for image in kept[1:]] == [0, 0]
