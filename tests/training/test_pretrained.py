"""Good starts: what is filled, what is new, what is frozen, and what is refused."""

import hashlib
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models import get_model_weights

from abn.config.params import Params, Train
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.runtime.errors import DataError, ParamsError
from abn.training import pretrained
from abn.training.pretrained import Start
from tests import toys

TRUNK = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
HEAD = ("bn_att", "att_conv", "bn_att2", "att_conv2", "att_conv3", "bn_att3", "fc")
CLASSES = ("cat", "dog", "fox")
RECIPE = {
    **{"arch": "resnet18", "attention": "residual", "seed": 3, "data": {"holdout": 0.0}},
    "train": {"epochs": 1, "batch_size": 2, "sizes": [32]},
}


def part(name: str) -> str:
    return name.partition(".")[0]


def resnet(arch: str = "resnet18", classes: int = 1000) -> dict[str, Tensor]:
    """torchvision's own network, with statistics that are not those of a new one."""
    torch.manual_seed(7)
    model = getattr(torchvision.models, arch)(num_classes=classes).train()
    with torch.no_grad():
        model(torch.rand(4, 3, 64, 64))
    return model.state_dict()


@pytest.fixture(scope="module")
def imagenet() -> Start:
    """A stand-in with the names and shapes of ImageNet's weights."""
    return Start(resnet(), tuple(f"class {i}" for i in range(1000)), "a stand-in", "0" * 64)


def network(classes: int = 3, attention: Any = "residual") -> AttentionBranchNetwork:
    torch.manual_seed(0)
    return AttentionBranchNetwork("resnet18", classes, attention=attention)


def saved(folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    torch.manual_seed(5)
    state = checkpoint.weights(AttentionBranchNetwork("resnet18", len(classes)))
    checkpoint.save_all(folder, {"model": state}, classes, RECIPE)
    return folder / "model.safetensors"


@pytest.fixture
def of(params: Params, changed: Callable[..., Train]) -> Callable[..., Train]:
    return lambda **values: changed(params.train, **values)


def test_imagenet_fills_the_trunk_and_both_fourth_layers(imagenet: Start) -> None:
    model = network()
    found = pretrained.fill(model, CLASSES, imagenet)
    for name, tensor in model.state_dict().items():
        source = name.removeprefix("att_") if name.startswith("att_layer4.") else name
        if part(name) in (*TRUNK, "att_layer4"):
            assert found.filled[name] == source and tensor.equal(imagenet.state[source]), name
        else:
            assert name in found.new
    assert {part(name) for name in found.new} == set(HEAD)
    assert found.unused == ["fc.weight", "fc.bias"]


def test_what_is_new_is_what_it_is_without_a_start(imagenet: Start) -> None:
    model, plain = network(), network().state_dict()
    new = pretrained.fill(model, CLASSES, imagenet).new
    assert all(model.state_dict()[name].equal(plain[name]) for name in new)


def test_what_was_filled_and_what_not_is_said_in_four_lines(imagenet: Start) -> None:
    lines = list(pretrained.fill(network(), CLASSES, imagenet).lines())
    assert lines == [
        "filled: conv1 (1), bn1 (5), layer1 (24), layer2 (30), layer3 (30), layer4 (30)",
        "filled from another part: att_layer4 (30) (from layer4 (30))",
        "new, random: bn_att (5), att_conv (1), bn_att2 (5), att_conv2 (1), att_conv3 (1), "
        "bn_att3 (5), fc (2)",
        "not used: fc (2)",
    ]


def test_with_imagenets_weights_and_its_1000_classes_the_trunk_decides_as_torchvisions() -> None:
    start = Start(resnet(), tuple(map(str, range(1000))), "a stand-in", "0" * 64)
    model = network(1000).double().eval()
    assert "fc.weight" in pretrained.fill(model, start.classes, start).filled
    theirs = torchvision.models.resnet18().double().eval()
    theirs.load_state_dict(start.state)
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        ours = model.perception_branch(model.features(images))
        expected = theirs((images - model.mean) / model.std)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_a_checkpoint_of_the_same_classes_fills_all(tmp_path: Path, of: Any) -> None:
    path = saved(tmp_path / "weights")
    config = of(init="weights/model.safetensors", init_sha256=checkpoint.sha256(path))
    start = pretrained.read(config, "resnet18", tmp_path)
    assert start is not None and start.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    model = network()
    found = pretrained.fill(model, CLASSES, start)
    assert (found.new, found.unused) == ([], [])
    assert all(x.equal(start.state[name]) for name, x in model.state_dict().items())
    assert pretrained.new_parameters(model, found) == frozenset()


def test_weights_that_a_smooth_network_learnt_are_said_to_be(tmp_path: Path, of: Any) -> None:
    path = toys.saved(tmp_path / "weights", CLASSES, smooth=True)
    config = of(init="weights/model.safetensors", init_sha256=checkpoint.sha256(path))
    start = pretrained.read(config, "resnet18", tmp_path)
    assert start is not None
    assert start.origin == "weights/model.safetensors (learnt with smooth: true)"


@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat", "fox", "dog"), ("a", "b", "c")])
def test_other_classes_replace_the_head_also_where_their_number_is_the_same(
    tmp_path: Path, of: Any, classes: tuple[str, ...]
) -> None:
    path = saved(tmp_path / "weights")
    config = of(init="weights/model.safetensors", init_sha256=checkpoint.sha256(path))
    start = pretrained.read(config, "resnet18", tmp_path)
    assert start is not None
    found = pretrained.fill(network(len(classes)), classes, start)
    assert {part(name) for name in found.new} == set(HEAD) - {"bn_att"}


def test_looks_second_statistics_start_as_those_of_the_first_look(imagenet: Start) -> None:
    model = network(attention="look")
    pretrained.fill(model, CLASSES, imagenet)
    assert model.look_norms[0].running_mean.equal(imagenet.state["bn1.running_mean"])
    last = imagenet.state["layer3.1.bn2.running_var"]
    assert model.look_norms[-1].running_var.equal(last) and not last.equal(torch.ones(256))


@pytest.mark.parametrize(
    ("last", "held"), [("none", 0), ("stem", 2), ("layer1", 3), ("layer2", 4), ("layer3", 5)]
)
def test_what_is_frozen_keeps_its_weights_and_its_statistics(
    imagenet: Start, last: str, held: int
) -> None:
    model = network()
    pretrained.fill(model, CLASSES, imagenet)
    pretrained.freeze(model, last)
    before = checkpoint.weights(model)
    rate = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    output = model.train()(torch.rand(4, 3, 64, 64))
    (output.logits.sum() + output.attention_logits.sum() + output.attention.sum()).backward()
    rate.step()
    same = {n for n, x in model.state_dict().items() if x.equal(before[n])}
    kept = {name for name in before if part(name) in TRUNK[:held]}
    assert kept <= same and not {n for n in same - kept if "fc" in n or "running" in n}
    assert all(module.training for module in model.layer4.modules())


def test_the_new_parts_are_those_of_the_head(imagenet: Start) -> None:
    model = network()
    new = pretrained.new_parameters(model, pretrained.fill(model, CLASSES, imagenet))
    assert {part(name) for name in new} == set(HEAD) and "bn_att.running_mean" not in new
    assert pretrained.new_parameters(model, None) == frozenset()


def test_random_has_no_start(params: Params) -> None:
    assert pretrained.read(params.train, "resnet18") is None


def test_a_file_whose_checksum_is_not_named_is_refused_with_the_line_to_add(
    tmp_path: Path, of: Any
) -> None:
    path = saved(tmp_path / "weights")
    digest = checkpoint.sha256(path)
    for given, what in ((None, "not given"), ("a" * 64, "not the file that was named")):
        config = of(init="weights/model.safetensors", init_sha256=given)
        with pytest.raises(ParamsError, match=what) as caught:
            pretrained.read(config, "resnet18", tmp_path)
        assert "train.init_sha256" in str(caught.value) and digest in str(caught.value)


def test_what_is_no_start_for_this_network_is_one_line(tmp_path: Path, of: Any) -> None:
    path = saved(tmp_path / "weights")
    right = of(init="weights/model.safetensors", init_sha256=checkpoint.sha256(path))
    with pytest.raises(DataError, match="set arch: resnet18"):
        pretrained.read(right, "resnet50", tmp_path)
    with pytest.raises(DataError, match=r"no such file; train.init = weights/none.*abn convert"):
        pretrained.read(of(init="weights/none"), "resnet18", tmp_path)
    path.write_bytes(b"no checkpoint")
    wrong = of(init="weights/model.safetensors", init_sha256=checkpoint.sha256(path))
    with pytest.raises(DataError, match="not a checkpoint of this project"):
        pretrained.read(wrong, "resnet18", tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's folder of downloads, empty, and no network."""

    def offline(*args: Any, **kwargs: Any) -> Any:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    return tmp_path / "torch/hub/checkpoints"


def test_without_network_the_line_has_the_address_and_the_place(hub: Path, of: Any) -> None:
    with pytest.raises(DataError) as caught:
        pretrained.read(of(init="imagenet"), "resnet50")
    line = caught.value.line()
    assert "Name or service not known" in line and f"put it at {hub}/resnet50-0676ba61.pth" in line
    assert "; https://download.pytorch.org/models/resnet50-0676ba61.pth; " in line
    assert "or start without it: train.init: random, train.freeze: none, train.new_lr: 1.0" in line
    assert not list(hub.iterdir())


def test_imagenet_is_torchvisions_file_of_that_arch_checked_by_its_name(
    hub: Path, of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = get_model_weights("resnet18")["IMAGENET1K_V1"]
    hub.mkdir(parents=True)
    path = hub / weights.url.rpartition("/")[2]
    torch.save(resnet(), path)
    with pytest.raises(
        DataError, match=r"damaged: not the checksum in its name; .*resnet18-f37072"
    ):
        pretrained.read(of(init="imagenet"), "resnet18")
    digest = checkpoint.sha256(path)
    monkeypatch.setattr(checkpoint, "sha256", lambda path: f"f37072fd{digest}")
    start = pretrained.read(of(init="imagenet"), "resnet18")
    assert start is not None and start.origin == "torchvision's resnet18-f37072fd.pth"
    assert len(start.classes) == 1000 and start.classes[217] == "English springer"
    assert start.state["fc.weight"].shape == (1000, 512)
