"""`abn export`: one file that answers as the network does, at any size and number of images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from abn.cli.main import main
from abn.config.params import Attention
from abn.inference import export
from abn.inference.export import ExportError
from abn.inference.predictor import Predictor
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from tests import toys


def toy(attention: Attention = "residual") -> Predictor:
    return Predictor(toys.network(attention=attention), toys.NAMES, 64, 64, toys.CPU)


def canvases(count: int) -> list[export.Canvas]:
    return [(image, 1.0) for image in toys.split(count, size=64).images]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with data/val.safetensors and the checkpoint of an untrained look network."""
    about = {"canvas": 64, "attention": "look", "unlike_below": 2.5}
    toys.saved(tmp_path / "checkpoint", toys.NAMES, 64, 64, **about)
    toys.pack(tmp_path / "data/val.safetensors", toys.split(5, size=64))
    return tmp_path


def test_a_network_is_compared_with_itself_at_two_sizes_and_two_batch_sizes() -> None:
    model, shapes = toy(), []

    def run(images: Tensor) -> Sequence[Tensor]:
        shapes.append(tuple(images.shape))
        return model.network(images)

    check = export.compare(model, run, canvases(2))
    assert shapes == [(1, 3, 64, 64), (3, 3, 64, 64), (1, 3, 96, 96), (3, 3, 96, 96)]
    assert (check.images, check.sizes) == (2, (64, 96))
    assert check.differences == {"logits": 0, "attention_logits": 0, "attention": 0}


@pytest.mark.parametrize("output", ["logits", "attention_logits", "attention"])
def test_an_output_that_is_off_by_more_than_the_limit_is_refused(output: str) -> None:
    model = toy()

    def run(images: Tensor) -> Sequence[Tensor]:
        outputs = model.network(images)
        return outputs._replace(**{output: getattr(outputs, output) + 2e-3})

    with pytest.raises(ExportError, match=f"gives {output} that differ by 0.002"):
        export.compare(model, run, canvases(3))


def test_outputs_that_are_no_numbers_or_of_another_shape_are_refused() -> None:
    model = toy()
    with pytest.raises(ExportError, match="logits that differ by nan"):
        export.compare(model, lambda x: [o * torch.nan for o in model.network(x)], canvases(3))
    with pytest.raises(ExportError, match=r"logits \[1, 3\]; \[1, 4\] expected"):
        export.compare(model, lambda x: [o[:, :3] for o in model.network(x)], canvases(3))


def test_photos_are_shown_through_the_canvas_of_the_packed_data(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 80, 3), 9, np.uint8)).save(tmp_path / "wide.png")
    [(pixels, aspect)] = export.photo_canvases([tmp_path / "wide.png"], 48)
    assert (tuple(pixels.shape), aspect) == ((48, 48, 3), 2.0)
    [(pixels, aspect)] = export.photo_canvases([tmp_path / "wide.png"], None)
    assert (tuple(pixels.shape), aspect) == ((40, 40, 3), 2.0)


def test_the_first_validation_images_are_compared(project: Path) -> None:
    data = project / "data/val.safetensors"
    assert len(export.packed_canvases(data)) == 3


def test_what_is_there_already_is_never_replaced(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "net.onnx").write_text("mine")
    words = ["export", str(project / "checkpoint/model.safetensors"), "--to"]
    assert main([*words, str(project / "net.onnx")]) == 3
    assert "already there" in capsys.readouterr().err
    assert (project / "net.onnx").read_text() == "mine"


def test_without_images_to_compare_on_nothing_is_written(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "data/val.safetensors").unlink()
    words = ["export", str(project / "checkpoint/model.safetensors"), "--to"]
    assert main([*words, str(project / "net.onnx")]) == 3
    assert "no images to compare" in capsys.readouterr().err
    assert not (project / "net.onnx").exists()


def test_an_export_that_fails_the_comparison_leaves_no_file(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writer(network: AttentionBranchNetwork, header: str, path: Path) -> export.Run:
        path.write_text("half right")
        return lambda images: [output + 1 for output in network(images)]

    monkeypatch.setitem(export.WRITERS, "onnx", writer)
    target = project / "out" / "net.onnx"
    with pytest.raises(ExportError):
        export.export(project / "checkpoint/model.safetensors", target, "onnx", canvases(1))
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("kind", export.SUFFIXES)
@pytest.mark.filterwarnings("default")  # torch's exporter has deprecations of its own
@pytest.mark.slow
def test_an_exported_network_answers_as_the_network_and_carries_its_header(
    kind: str, smooth: bool, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how: dict[str, Any] = {"canvas": 64, "attention": "look", "smooth": smooth}
    toys.saved(project / "checkpoint", toys.NAMES, 64, 64, **how)
    source, target = project / "checkpoint/model.safetensors", project / "net"
    words = ["export", str(source), "--to", str(target), "--format", kind, "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["bytes"] == target.stat().st_size and told["images"] == 3
    assert max(told["differences"].values()) < export.LIMIT
    header, run = opened(kind, target)
    assert json.loads(header) == json.loads(checkpoint.read(source)[0]["abn"])
    network = checkpoint.load(source, toys.CPU).model
    for shape in ((1, 3, 33, 40), (5, 3, 96, 64), (2, 3, 128, 128)):
        images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected, outputs = network(images)._asdict(), run(images)
        assert outputs.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(outputs[name], expected[name], rtol=1e-4, atol=1e-4)


def opened(kind: str, path: Path):
    """Header and function of an exported file, as a stranger opens it."""
    if kind == "torch-export":
        extra = {"abn": ""}
        with path.open("rb") as file:
            module = torch.export.load(file, extra_files=extra).module()
        return extra["abn"], module
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    [images] = session.get_inputs()
    assert (images.name, images.shape) == ("images", ["batch", 3, "height", "width"])

    def run(x: Tensor) -> dict[str, Tensor]:
        outputs = session.run(None, {"images": x.numpy()})
        return dict(zip(names, map(torch.from_numpy, outputs), strict=True))

    return session.get_modelmeta().custom_metadata_map["abn"], run
