"""Old weights: files of the true layout become checkpoints with the outputs of their source."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

import abn
from abn.cli.main import main
from abn.config.params import Params
from abn.inference import convert
from abn.models import checkpoint
from abn.runtime.errors import DataError
from abn.training import pretrained
from tests import toys
from tests.toys import CPU

TEN = ("tench", "English springer", "cassette player", "chain saw", "church")
TEN += ("French horn", "garbage truck", "gas pump", "golf ball", "parachute")
LAYERS = {"resnet18": (BasicBlock, [2, 2, 2, 2]), "resnet50": (Bottleneck, [3, 4, 6, 3])}


class Theirs(ResNet):
    """Both sources' network on torchvision's ResNet; `relu` after bn_att: the original project."""

    def __init__(self, arch: str, classes: int, relu: bool) -> None:
        block, depths = LAYERS[arch]
        super().__init__(block, depths, num_classes=classes)
        top, self.after = 512 * block.expansion, relu
        self.inplanes = top // 2
        self.att_layer4 = self._make_layer(block, 512, depths[3], stride=1)
        self.bn_att, self.bn_att2 = nn.BatchNorm2d(top), nn.BatchNorm2d(classes)
        self.att_conv = nn.Conv2d(top, classes, 1, bias=False)
        self.att_conv2 = nn.Conv2d(classes, classes, 1, bias=False)
        self.att_conv3 = nn.Conv2d(classes, 1, 3, padding=1, bias=False)
        self.bn_att3 = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Any:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        a = self.bn_att(self.att_layer4(x))
        a = self.relu(self.bn_att2(self.att_conv(a.relu() if self.after else a)))
        drawn = self.bn_att3(self.att_conv3(a)).sigmoid()
        decided = self.fc(self.layer4(x * drawn + x).mean((2, 3)))
        return decided, self.att_conv2(a).mean((2, 3)), drawn


def trained(arch: str, classes: int, relu: bool = False) -> Theirs:
    """With statistics that are not those of a new network."""
    torch.manual_seed(3)
    model = Theirs(arch, classes, relu).train()
    with torch.no_grad():
        model(torch.rand(4, 3, 64, 64))
    return model.eval()


def official(folder: Path, model: nn.Module) -> Path:
    """As the official training saves: DataParallel's names, the optimizer beside them."""
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    momentum = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    whole = {"epoch": 90, "state_dict": state, "acc": 76.1, "best_acc": 76.2, "optimizer": momentum}
    torch.save(whole, folder / "model_best.pth.tar")
    return folder / "model_best.pth.tar"


def original(folder: Path, model: nn.Module, arch: str) -> Path:
    """As Hugging Face's Trainer saves `checkpoint-XXXX/`."""
    place = folder / "checkpoint-148"
    place.mkdir()
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    labels = {str(i): f"{name} / other name" for i, name in enumerate(TEN)}
    config = {"model_type": "abn", "arch": arch, "id2label": labels}
    (place / "config.json").write_text(json.dumps(config))
    (place / "trainer_state.json").write_text("{}")
    (place / "optimizer.pt").write_bytes(b"of no use")
    return place


def assert_same(path: Path, theirs: nn.Module) -> checkpoint.Checkpoint:
    """That the checkpoint at `path` has the outputs of `theirs` to 1e-6."""
    found = checkpoint.load(path, CPU)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(9)).double()
    ours = found.model.double()
    with torch.no_grad():
        expected = theirs.double()((images - ours.mean) / ours.std)
        for one, other in zip(ours(images), expected, strict=True):
            assert (one - other).abs().max() <= 1e-6 * other.abs().max()
    return found


@pytest.mark.parametrize("arch", LAYERS)
def test_the_official_abn_is_reproduced_with_imagenets_names(tmp_path: Path, arch: str) -> None:
    theirs = trained(arch, 1000)
    made = convert.convert(official(tmp_path, theirs))
    assert made.difference <= 1e-6
    convert.write(made, tmp_path / "weights/official.safetensors")
    found = assert_same(tmp_path / "weights/official.safetensors", theirs)
    assert found.arch == arch and not found.model.branch_relu
    assert found.classes[:2] == ("tench", "goldfish") and set(TEN) < set(found.classes)


def test_imagenettes_ten_are_read_from_the_thousand(tmp_path: Path) -> None:
    theirs, path = trained("resnet18", 1000), tmp_path / "official.safetensors"
    convert.write(convert.convert(official(tmp_path, theirs)), path)
    ten = checkpoint.for_classes(checkpoint.load(path, CPU), TEN, path)
    rows = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # ImageNet's numbers of the ten
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs((images - ten.model.mean) / ten.model.std)[0][:, rows]
        found = ten.model(images).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arch", LAYERS)
def test_the_original_project_is_reproduced_with_its_relu(tmp_path: Path, arch: str) -> None:
    theirs, path = trained(arch, 10, relu=True), tmp_path / "old.safetensors"
    folder = original(tmp_path, theirs, arch)
    assert main(["convert", str(folder), str(path)]) == 0
    found = assert_same(path, theirs)
    assert found.classes == TEN and found.model.branch_relu
    file, other = folder / "model.safetensors", tmp_path / "b.safetensors"
    convert.write(convert.convert(file), other)
    assert other.read_bytes() == path.read_bytes()


def test_without_the_relu_the_outputs_would_be_others(tmp_path: Path) -> None:
    theirs = trained("resnet18", 10, relu=True)
    made = convert.convert(original(tmp_path, theirs, "resnet18"))
    del made.header["branch_relu"]
    convert.write(made, tmp_path / "wrong.safetensors")
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "wrong.safetensors", theirs)


def test_a_converted_network_predicts(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    convert.write(
        convert.convert(original(tmp_path, trained("resnet18", 10, True), "resnet18")), path
    )
    model = abn.load(path, device="cpu")
    assert (model.size, model.resize, model.classes) == (224, 256, TEN)
    image = torch.zeros(80, 90, 3, dtype=torch.uint8).numpy()
    assert model.predict(image).label in TEN


def test_what_is_a_checkpoint_of_this_project_is_used_as_it_is(tmp_path: Path) -> None:
    """Its tensors alone do not say that it is smooth: read as the official ABN, it would not be."""
    own = toys.saved(tmp_path / "checkpoint", ("cat", "dog"), smooth=True)
    with pytest.raises(DataError, match=r"a checkpoint of this project already; .*use it as it is"):
        convert.convert(own, ("cat", "dog"))


def test_torchvisions_weights_are_a_start_and_no_network(
    tmp_path: Path, params: Params, changed: Any
) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18-f37072fd.pth")
    path = tmp_path / "start.safetensors"
    convert.write(convert.convert(tmp_path / "resnet18-f37072fd.pth"), path)
    with pytest.raises(DataError, match=r"good as train.init only"):
        checkpoint.load(path, CPU)
    digest = checkpoint.sha256(path)
    config = changed(params.train, init="start.safetensors", init_sha256=digest)
    start = pretrained.read(config, "resnet18", tmp_path)
    assert start is not None and len(start.classes) == 1000 and len(start.state) == 122


def test_a_difference_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = official(tmp_path, trained("resnet18", 1000))
    monkeypatch.setattr(convert, "compare", lambda header, state: 2e-6)
    with pytest.raises(DataError, match=r"a forward pass differs by 2.0e-06 of the largest logit"):
        convert.convert(path)


class Runs:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_what_is_not_such_weights_is_one_line_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"fc.weight": torch.ones(2, 3)}}, "other.pth")
    torch.save({"state_dict": trained("resnet18", 5).state_dict()}, "unnamed.pth")
    Path("code.pth").write_bytes(pickle.dumps({"state_dict": Runs()}))
    torch.save({"state_dict": Runs()}, "zipped.pth")
    Path("noise.safetensors").write_bytes(b"noise")
    Path("empty").mkdir()
    for source, what in {
        "other.pth": "not the tensors of an ABN",
        "unnamed.pth": "5 classes, and 0 names",
        "code.pth": "holds more than weights",
        "zipped.pth": "holds more than weights",
        "noise.safetensors": "not weights",
        "empty": "no weights here",
        "none.pth": "no weights here",
    }.items():
        assert main(["convert", source, "made.safetensors"]) == 3, source
        line = capsys.readouterr().err
        assert what in line and line.startswith("error[DATA] ") and line.count("\n") == 1, line
    assert not Path("ran").exists() and not Path("made.safetensors").exists()


@pytest.mark.parametrize("classes", ["none.txt", "folder", "latin.txt"])
def test_a_file_of_names_that_is_no_text_is_one_line(
    classes: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("latin.txt").write_bytes("Käfer".encode("latin-1"))
    assert main(["convert", "x.pth", "made.safetensors", "--classes", classes]) == 3
    line = capsys.readouterr().err
    assert f"; --classes {classes}; give a file of UTF-8 text" in line and line.count("\n") == 1


def test_names_come_from_a_file_and_nothing_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = official(tmp_path, trained("resnet18", 3)), tmp_path / "made.safetensors"
    (tmp_path / "names.txt").write_text("cat\ndog\nfox\n")
    command = ["convert", str(source), str(target), "--classes", str(tmp_path / "names.txt")]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["arch"], said["classes"], said["start_only"]) == ("resnet18", 3, False)
    assert said["sha256"] == checkpoint.sha256(target) and said["difference"] <= 1e-6
    assert checkpoint.load(target, CPU).classes == ("cat", "dog", "fox")
    assert main(command) == 3 and "is there already" in capsys.readouterr().err
