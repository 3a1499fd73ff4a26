"""The network: number for number the authors' own; torchvision's ResNet where the map is zero."""

import copy
import math
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from abn.models.abn import IMAGENET_MEAN, IMAGENET_STD, AttentionBranchNetwork, Output, losses
from abn.models.resnet import ARCHS, BasicBlock, Bottleneck

GOLDEN = Path(__file__).parents[1] / "golden"
BRANCH = {"att_layer4", "bn_att", "att_conv", "bn_att2", "att_conv2", "att_conv3", "bn_att3"}


def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(crc32(name.encode())).standard_normal(shape))


def made(name: str, old: torch.Tensor) -> torch.Tensor:
    """The value that the rule of golden/README.md gives to an entry of the state dict."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros_like(old)
    x = draw(name, tuple(old.shape))
    if name.endswith("running_var"):
        return 0.5 + x.abs()
    if name.endswith("running_mean"):
        return 0.1 * x
    if old.ndim == 1:
        return 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
    return x * math.sqrt(2 / math.prod(old.shape[1:]))


def golden_network(arch: str) -> AttentionBranchNetwork:
    """The network of the golden file in float64."""
    model = AttentionBranchNetwork(arch, num_classes=10).double()
    model.load_state_dict({name: made(name, old) for name, old in model.state_dict().items()})
    return model


def denormalised(model: AttentionBranchNetwork, x: torch.Tensor) -> torch.Tensor:
    """The images that the network's own first line turns into `x`."""
    return x * model.std + model.mean


def meta_network(arch: str, num_classes: int = 7) -> AttentionBranchNetwork:
    """Names and shapes without numbers."""
    with torch.device("meta"):
        return AttentionBranchNetwork(arch, num_classes)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_outputs_and_gradients_are_the_official_ones(arch):
    expected = load_file(GOLDEN / f"{arch}.safetensors")
    model = golden_network(arch)
    images = denormalised(model, draw("input", (2, 3, 224, 224)))
    found = {}
    with torch.no_grad():
        found |= {f"eval.{name}": x for name, x in model.eval()(images)._asdict().items()}
    output = model.train()(images)
    loss = torch.stack(losses(output, torch.tensor([3, 7]))).sum()
    loss.backward()
    found |= {f"train.{name}": x.detach() for name, x in output._asdict().items()}
    found["train.loss"] = loss.detach().view(1)
    for name in ("conv1.weight", "att_conv3.weight", "fc.weight"):
        found[f"train.grad.{name}"] = model.get_parameter(name).grad
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].shape == x.shape, name
        assert (found[name] - x).abs().max() <= 1e-9 * x.abs().max(), name


@pytest.mark.parametrize("height, width, cells", [(65, 97, (5, 7)), (32, 32, (2, 2))])
def test_any_image_size_works_and_the_map_lies_between_0_and_1(height, width, cells):
    model = AttentionBranchNetwork("resnet18", num_classes=3)
    with torch.no_grad():
        output = model(torch.rand(2, 3, height, width))
    assert output.attention.shape == (2, 1, *cells)
    assert 0 < output.attention.min() < output.attention.max() < 1
    assert all(x.isfinite().all() for x in output)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_names_are_torchvisions_and_the_branchs(arch):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, arch)(num_classes=7).state_dict()
    ours = meta_network(arch).state_dict()
    trunk = {name: x for name, x in ours.items() if name.partition(".")[0] not in BRANCH}
    assert {name.partition(".")[0] for name in ours.keys() - trunk.keys()} == BRANCH
    assert list(trunk) == list(theirs)
    assert [x.shape for x in trunk.values()] == [x.shape for x in theirs.values()]
    layer4 = {f"att_{name}" for name in theirs if name.startswith("layer4.")}
    assert {name for name in ours if name.startswith("att_layer4.")} == layer4


def test_the_normalisation_is_imagenets_and_not_saved():
    model = AttentionBranchNetwork("resnet18", num_classes=2)
    assert model.state_dict().keys().isdisjoint({"mean", "std"})
    assert model.mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)
    assert model.std.flatten().tolist() == pytest.approx(IMAGENET_STD)
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert (list(IMAGENET_MEAN), list(IMAGENET_STD)) == (weights.mean, weights.std)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_with_a_map_of_zeros_the_perception_branch_is_torchvisions_resnet(arch):
    model = golden_network(arch).eval()
    theirs = getattr(torchvision.models, arch)(num_classes=10).double().eval()
    theirs.load_state_dict({name: model.state_dict()[name] for name in theirs.state_dict()})
    x = draw("input", (2, 3, 64, 96))
    with torch.no_grad():
        logits = model.perception_branch(model.features(denormalised(model, x)))
        expected = theirs(x)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=0)


def test_weights_of_classes_by_hand():
    """An image of class 0 weighs 1/2, one of class 1 weighs 3/2; the mean is over two images."""
    sure = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])  # 3/4 for class 0
    output = Output(sure, sure, attention=torch.zeros(2, 1, 1, 1))
    shares, weights = torch.eye(2), torch.tensor([0.5, 1.5])
    for found in losses(output, shares, weights=weights):
        assert found.item() == pytest.approx((0.5 * math.log(4 / 3) + 1.5 * math.log(4)) / 2)


def test_two_classes_by_hand():
    even = torch.zeros(2, 2)  # each class has probability 1/2
    sure = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])  # 3/4 for the label, then 1/4
    output = Output(logits=sure, attention_logits=even, attention=torch.zeros(2, 1, 1, 1))
    perception, attention = losses(output, torch.tensor([0, 0]))
    assert perception.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    assert attention.item() == pytest.approx(math.log(2))


def test_label_smoothing_by_hand():
    logits = torch.tensor([[math.log(3), 0.0]])
    output = Output(logits=logits, attention_logits=logits, attention=torch.zeros(1, 1, 1, 1))
    # a smoothing of 0.2 over two classes: 0.9 for the label, 0.1 for the other
    expected = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    for loss in losses(output, torch.tensor([0]), label_smoothing=0.2):
        assert loss.item() == pytest.approx(expected)


def test_mixed_targets_by_hand():
    logits = torch.tensor([[math.log(3), 0.0]])
    output = Output(logits=logits, attention_logits=-logits, attention=torch.zeros(1, 1, 1, 1))
    perception, attention = losses(output, torch.tensor([[0.25, 0.75]]))
    assert perception.item() == pytest.approx(0.25 * math.log(4 / 3) + 0.75 * math.log(4))
    assert attention.item() == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))


def test_convolutions_start_with_hes_variance():
    torch.manual_seed(0)
    model = AttentionBranchNetwork("resnet18", num_classes=10)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            weight = module.weight.detach()
            fan_out = module.out_channels * math.prod(module.kernel_size)
            error = 4 / math.sqrt(weight.numel())  # four standard errors, as shares
            assert weight.var().item() * fan_out / 2 == pytest.approx(1, abs=error * 2**0.5), name
            assert abs(weight.mean().item()) <= error * math.sqrt(2 / fan_out), name


def test_the_seed_alone_decides_the_initial_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return AttentionBranchNetwork("resnet18", num_classes=2).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_with_zero_init_every_residual_block_starts_as_the_identity(arch):
    model = AttentionBranchNetwork(arch, num_classes=2, zero_init=True)
    blocks = [m for m in model.modules() if isinstance(m, BasicBlock | Bottleneck)]
    assert len(blocks) == sum(ARCHS[arch].depths) + ARCHS[arch].depths[3]
    for block in blocks:
        x = torch.randn(2, block.conv1.in_channels, 2, 2)
        shortcut = x if block.downsample is None else block.downsample(x)
        assert torch.equal(block(x), shortcut.relu())


def test_zero_init_changes_no_other_weight():
    def weights(**options):
        torch.manual_seed(0)
        return AttentionBranchNetwork("resnet18", num_classes=2, **options).state_dict()

    plain, default, zero = weights(zero_init=False), weights(), weights(zero_init=True)
    assert all(torch.equal(plain[name], default[name]) for name in plain)
    changed = {name for name in plain if not torch.equal(plain[name], zero[name])}
    assert changed == {name for name in plain if "layer" in name and name.endswith("bn2.weight")}
    assert not any(zero[name].any() for name in changed)


def test_nothing_is_kept_on_the_module_between_two_batches():
    model = AttentionBranchNetwork("resnet18", num_classes=2).eval()
    before = copy.copy(vars(model))
    with torch.no_grad():
        model(torch.rand(1, 3, 32, 32))
    assert vars(model) == before


@torch.inference_mode()
def test_a_trace_is_the_forward_pass_step_by_step():
    torch.manual_seed(0)
    model = AttentionBranchNetwork("resnet18", num_classes=5).eval()
    x = torch.rand(2, 3, 64, 64)
    trace, output = model.trace(x), model(x)
    assert torch.equal(trace.features, model.features(x)) and trace.features.shape[2:] == (4, 4)
    assert all(map(torch.equal, trace.output(), output))
    attended = model.attend(x, trace.features, trace.attention)
    assert torch.equal(model.perception_branch(attended), output.logits)
    assert torch.equal(trace.class_maps.mean((2, 3)), output.attention_logits)


@pytest.mark.parametrize("attention", ["residual", "look"])
def test_smooth_has_the_same_weights_at_the_start_and_other_answers(attention):
    def network(**options):
        torch.manual_seed(0)
        return AttentionBranchNetwork("resnet18", 3, attention=attention, **options).eval()

    plain, off, smooth = network(), network(smooth=False), network(smooth=True)
    expected, found = plain.state_dict(), smooth.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    images = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        one, same, other = (model(images) for model in (plain, off, smooth))
    assert all(map(torch.equal, one, same))
    assert [x.shape for x in one] == [x.shape for x in other]
    assert not torch.allclose(one.logits, other.logits)


@pytest.mark.parametrize("smooth", [False, True])
def test_the_forward_pass_compiles_to_one_graph(smooth):
    torch.manual_seed(0)
    model = AttentionBranchNetwork("resnet18", num_classes=5, smooth=smooth).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)(x)
        assert all(map(torch.equal, compiled, model(x)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"arch": "resnet19"}, "arch is 'resnet19', not one of resnet18, resnet34"),
        ({"num_classes": 0}, "num_classes is 0, not a whole number from 1"),
        ({"num_classes": 2.5}, "num_classes is 2.5, not"),
        ({"attention": "Look"}, "attention is 'Look', not one of residual, look"),
        ({"contrast": 0.0}, "contrast is 0.0, not above 0"),
    ],
)
def test_what_no_network_can_be_made_of_is_a_value_error(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionBranchNetwork(**({"arch": "resnet18", "num_classes": 10} | values))
