"""The network in other libraries: CAM methods on `logits_only`, its weights in safetensors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from abn.config.params import Attention
from abn.models.abn import AttentionBranchNetwork


def network(attention: Attention = "residual") -> AttentionBranchNetwork:
    torch.manual_seed(0)
    return AttentionBranchNetwork("resnet18", 3, attention=attention).eval()


def images() -> Tensor:
    return torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def grad_cam(model: AttentionBranchNetwork, label: int) -> Tensor:
    """Grad-CAM at layer4 from its definition: [B, h, w], at least 0, not scaled."""
    kept: list[Tensor] = []
    handle = model.layer4.register_forward_hook(lambda *given: kept.append(given[2]))
    logits = model(images()).logits
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, label].sum(), kept[-1])
    return (gradient.mean((2, 3), keepdim=True) * kept[-1]).sum(1).relu()


@pytest.mark.parametrize("attention", ["residual", "look"])
def test_logits_only_gives_the_logits_and_trains_or_not_as_the_network(
    attention: Attention,
) -> None:
    model = network(attention)
    assert model.logits_only()(images()).equal(model(images()).logits)
    assert not model.logits_only().training and model.train().logits_only().training


def test_torchcam_finds_the_grad_cam_of_the_perception_branch() -> None:
    methods = pytest.importorskip("torchcam.methods")
    model, one = network(), images()[:1]
    expected = grad_cam(model, 1)[:1]
    wrapped = model.logits_only()
    with methods.GradCAM(wrapped, target_layer=wrapped.network.layer4) as extractor:
        (found,) = extractor(1, wrapped(one), normalized=False)
    torch.testing.assert_close(found, expected)


def test_pytorch_grad_cam_finds_the_grad_cam_of_the_perception_branch() -> None:
    library = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model = network()
    expected = grad_cam(model, 1)
    wrapped = model.logits_only()
    with library.GradCAM(model=wrapped, target_layers=[wrapped.network.layer4]) as cam:
        found = torch.from_numpy(cam(images(), [targets.ClassifierOutputTarget(1)] * 2))
    low, high = expected.amin((1, 2), keepdim=True), expected.amax((1, 2), keepdim=True)
    scaled = ((expected - low) / (high - low)).detach()
    # It enlarges bilinearly: the middle cell of 3 x 3 has its value in the middle of 96 x 96.
    middle = found[:, 47:49, 47:49].mean((1, 2))
    torch.testing.assert_close(middle, scaled[:, 1, 1], atol=0.05, rtol=0)


@pytest.mark.parametrize("attention", ["residual", "look"])
def test_its_state_is_saved_and_read_by_safetensors_alone(
    attention: Attention, tmp_path: Path
) -> None:
    model, other = network(attention), network(attention).train()
    other(images())  # other statistics
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    other.load_state_dict(load_file(tmp_path / "a.safetensors"))
    assert other.eval()(images()).logits.equal(model(images()).logits)
