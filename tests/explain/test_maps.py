"""Maps against arithmetic on a linear network, and against two libraries on a real one."""

import math

import pytest
import torch
from captum.attr import InputXGradient
from torch import Tensor, nn
from torchcam.methods import SmoothGradCAMpp

from abn.explain import localisation, maps
from abn.explain.case import Samples
from abn.models.abn import IMAGENET_MEAN, AttentionBranchNetwork
from abn.runtime.rng import generator
from tests.toys import network

LABELS = torch.tensor([0, 3, 1])
CLASS_MAPS = torch.tensor([[[1.0, 2], [3, 4]], [[-1, 0], [0, 1]]])  # of a linear network's classes
MAP = torch.tensor([[[0.0, 0.5], [1, 0.5]]])
WEIGHTS = torch.tensor(  # [2 classes, 2 channels, 2, 2]
    [[[[1.0, 2], [3, 4]], [[1, -1], [-5, 0]]], [[[-1, 0], [1, 0]], [[0, 2], [2, 0]]]]
)
IMAGE = torch.tensor([[[1.0, 2], [1, 2]], [[3, 1], [1, 4]]])  # its features are the image itself


class Linear(AttentionBranchNetwork):
    """Logits are WEIGHTS times the attended image; the attention branch says MAP of every image."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.layer4 = nn.Identity()

    def features(self, images: Tensor) -> Tensor:
        return images

    def attention_branch(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return CLASS_MAPS.repeat(len(features), 1, 1, 1), MAP.repeat(len(features), 1, 1, 1)

    def perception_branch(self, attended: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", self.layer4(attended), WEIGHTS)


class Logits(nn.Module):
    """What the libraries want: a module from the images, or from the attended features, to z."""

    def __init__(self, model: AttentionBranchNetwork, whole: bool = True) -> None:
        super().__init__()
        self.model = model
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits if self.whole else self.model.perception_branch(x)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 3, 96, 96, generator=generator("images"))


@pytest.fixture(scope="module")
def real(images) -> AttentionBranchNetwork:
    """A network of random weights that has seen the images, so that no sigmoid is saturated."""
    torch.manual_seed(0)
    model = AttentionBranchNetwork("resnet18", 4)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1  # the statistics of one batch, at once
        model(images)
    return model.eval()


@pytest.fixture(scope="module")
def ours(real, images) -> dict[str, Tensor]:
    return maps.network_maps(real, images, LABELS)


@pytest.fixture(scope="module")
def attention(real, images) -> Tensor:
    with torch.no_grad():
        return real(images).attention


@pytest.fixture(scope="module")
def attended(real, images, attention) -> Tensor:
    with torch.no_grad():
        return real.features(images) * (1 + attention)


@pytest.fixture(scope="module")
def linear() -> dict[str, Tensor]:
    """The maps of the linear network of IMAGE, for class 0 and for class 1."""
    return maps.network_maps(Linear(), IMAGE.repeat(2, 1, 1, 1), torch.tensor([0, 1]))


def close(measured: Tensor, expected: Tensor) -> None:
    """Equal but for the order of the sums."""
    torch.testing.assert_close(measured, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


def test_every_map_is_detached_float32_on_the_grid_it_was_computed_on(ours):
    assert list(ours) == [
        "attention",
        "att_cam",
        "grad_attention",
        "hirescam",
        "gradcam",
        "gradcam_pp",
    ]
    for name, values in ours.items():
        side = 3 if name.startswith("gradcam") else 6  # layer4 has half the cells
        assert values.shape == (3, side, side) and values.dtype == torch.float32
        assert not values.requires_grad and values.isfinite().all()
        assert (values.amax((1, 2)) > values.amin((1, 2))).all()


def test_att_cam_is_the_attention_branchs_map_of_the_class(linear):
    assert torch.equal(linear["att_cam"], CLASS_MAPS)


def test_grad_attention_by_hand(linear):
    # dz/dM sums weight x feature over the channels: class 0 has 4, 3, -2, 8; class 1 -1, 2, 3, 0.
    assert linear["grad_attention"].tolist() == [[[0, 1.5], [0, 4]], [[0, 1], [3, 0]]]


def test_hirescam_by_hand(linear):
    # The same sums times (1 + M): the attended features, not the map, are what is weighed.
    assert linear["hirescam"].tolist() == [[[4, 4.5], [0, 12]], [[0, 3], [6, 0]]]


def test_gradcam_by_hand(linear):
    # The channels' mean weights are 2.5, -1.25 and 0, 1; the attended channels 1 3 2 3, 3 1.5 2 6.
    assert linear["gradcam"].tolist() == [[[0, 5.625], [2.5, 0]], [[3, 1.5], [2, 6]]]


def test_gradcam_pp_follows_the_published_formula_with_the_derivatives_of_exp_z(linear):
    top = (IMAGE * (1 + MAP)).double()
    slopes = WEIGHTS.double()
    second, third = slopes**2, slopes**3  # times exp(z), as all derivatives of exp of a linear z
    alpha = second / (2 * second + top.sum((1, 2))[:, None, None] * third)
    weights = (alpha.nan_to_num() * slopes.relu()).sum((2, 3))
    expected = torch.einsum("kc,chw->khw", weights, top).relu()
    torch.testing.assert_close(linear["gradcam_pp"].double(), expected)


def test_gradcam_pp_agrees_with_torchcam(real, images, ours):
    # The smoothed method, of one sample without noise: torchcam 0.5's plain GradCAMpp divides a
    # copy of its weights, so that its alpha is the squared slope alone.
    with SmoothGradCAMpp(Logits(real), "model.layer4", num_samples=1, std=1e-12) as method:
        method.model(images)
        (theirs,) = method(LABELS.tolist(), normalized=False, eps=1e-20)
    close(ours["gradcam_pp"], theirs)


def test_grad_attention_agrees_with_captum(real, images, attention, ours):
    with torch.no_grad():
        features = real.features(images)
    method = InputXGradient(lambda gate: real.perception_branch(features * (1 + gate)))
    theirs = method.attribute(attention.clone().requires_grad_(), LABELS)
    close(ours["grad_attention"], theirs[:, 0].detach().relu())


def test_hirescam_agrees_with_captum(real, attended, ours):
    method = InputXGradient(real.perception_branch)
    theirs = method.attribute(attended.clone().requires_grad_(), LABELS)
    close(ours["hirescam"], theirs.detach().sum(1).relu())


def test_an_images_maps_do_not_depend_on_its_neighbours(real, images, ours):
    alone = maps.network_maps(real, images[1:2], LABELS[1:2])
    for name, values in alone.items():
        close(values, ours[name][1:2])


def test_nothing_is_left_on_the_model():
    model = network().eval()
    kept = maps.network_maps(model, torch.rand(2, 3, 32, 32), torch.tensor([0, 2]))
    assert kept["gradcam"].shape == (2, 2, 2)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.layer4._forward_hooks


def bright_cell(images: Tensor) -> Tensor:
    """The chance of class 1 is the mean of the second row's last cell of a 4 x 4 grid."""
    side = images.shape[-1] // 4
    light = images[:, :, side : 2 * side, 3 * side :].mean((1, 2, 3))
    return torch.stack([1 - light, light], 1)


def risen(images: Tensor, labels: list[int], masks: int = 400, batch: int = 100) -> Tensor:
    key = generator("rise")
    return maps.rise(bright_cell, images, torch.tensor(labels), (4, 4), masks, key, batch)


def test_rise_finds_the_cell_that_decides():
    likely = risen(torch.ones(2, 3, 28, 28), [1, 0])
    assert likely.shape == (2, 4, 4)
    assert likely[0].argmax() == likely[1].argmin() == 7
    torch.testing.assert_close(likely.sum(0), torch.ones(4, 4))  # probabilities sum to 1


def test_rise_gives_a_constant_classifier_a_flat_map():
    chances = torch.tensor([0.3, 0.7])
    images, labels = torch.rand(2, 3, 30, 26), torch.tensor([0, 1])
    flat = maps.rise(
        lambda seen: chances.repeat(len(seen), 1), images, labels, (5, 2), 150, generator(0)
    )
    torch.testing.assert_close(flat, chances[:, None, None].expand(2, 5, 2))


def test_rise_fades_what_it_hides_to_the_mean_colour():
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    images = torch.cat([mean.expand(1, 3, 28, 28), torch.ones(1, 3, 28, 28)])
    seen = []

    def record(pictures: Tensor) -> Tensor:
        seen.append(pictures.unflatten(0, (2, -1)))
        return bright_cell(pictures)

    maps.rise(record, images, torch.tensor([1, 1]), (4, 4), 60, generator(0))
    grey, white = torch.cat(seen, 1)
    torch.testing.assert_close(grey, mean.expand_as(grey))
    assert len(grey) == 60 and not torch.equal(white, torch.ones_like(white))
    torch.testing.assert_close(white.amin((0, 2, 3)), mean.flatten())


def test_rise_gives_an_image_the_same_map_in_any_company_and_batch():
    images = torch.rand(5, 3, 28, 28, generator=generator("company"))
    together = risen(images, [0, 1, 1, 0, 1], masks=50)
    alone = risen(images[2:3], [1], masks=50, batch=7)
    torch.testing.assert_close(alone, together[2:3])


def test_rises_masks_are_smooth_half_open_and_moved():
    grids = torch.rand(500, 7, 7, generator=generator("grids")) < 0.5
    shifts = torch.rand(500, 2, generator=generator("shifts"))
    masks = maps._screens(grids.float(), shifts, 70, 56)
    assert masks.shape == (500, 70, 56) and masks.min() >= 0 and masks.max() <= 1
    assert masks.mean().item() == pytest.approx(0.5, abs=0.02)
    steps = 7 / 8 / torch.tensor([10, 8])  # a cell is blown up to 8/7 of its pixels
    assert masks.diff(dim=1).abs().max() <= steps[0] + 1e-6
    assert masks.diff(dim=2).abs().max() <= steps[1] + 1e-6
    one = grids[:1].float()
    corner = maps._screens(one, torch.zeros(1, 2), 70, 56)
    moved = maps._screens(one, torch.tensor([[0.3, 0.5]]), 70, 56)
    assert torch.equal(moved[:, :-3, :-4], corner[:, 3:, 4:])


def test_the_centre_control_peaks_at_the_centre_and_falls_off_symmetrically():
    odd = maps.centre_maps(2, 5, 7)
    assert odd.shape == (2, 5, 7)
    assert odd.flatten(1).argmax(1).tolist() == [2 * 7 + 3] * 2
    assert odd[0, 2, 3].item() == 1
    even = maps.centre_maps(1, 10, 10)
    assert torch.equal(even, even.flip(1, 2)) and torch.equal(even, even.mT)
    assert (even[0, 4, 7] / even[0, 4, 5]).item() == pytest.approx(math.exp(-0.06 / 0.08))


def test_the_sobel_control_of_a_flat_image_is_exactly_zero():
    colour = torch.tensor([0.1, 0.7, 0.3]).view(1, 3, 1, 1)
    assert not maps.sobel_maps(colour.expand(2, 3, 33, 35), 3, 5).any()


def test_the_sobel_control_of_an_edge_by_hand():
    images = torch.zeros(1, 3, 8, 8)
    images[..., 5:] = 1  # the gradient is 4 in columns 4 and 5, and 0 elsewhere
    torch.testing.assert_close(
        maps.sobel_maps(images, 2, 4), torch.tensor([0.0, 0, 4, 0]).expand(1, 2, 4)
    )
    upright = maps.sobel_maps(images.mT, 4, 2)
    assert torch.equal(upright, maps.sobel_maps(images, 2, 4).mT)


def test_the_oracle_is_the_share_of_each_cell_in_the_object():
    objects = torch.zeros(1, 4, 8, dtype=torch.bool)
    objects[0, 1:3, 1:4] = True
    assert maps.oracle_maps(objects, 2, 4).tolist() == [[[0.25, 0.5, 0, 0]] * 2]
    assert maps.oracle_maps(objects, 1, 1).tolist() == [[[6 / 32]]]


def test_the_compared_maps_are_the_networks_and_the_controls_of_each_grid(
    samples: Samples,
) -> None:
    compared = maps.compared_maps(network().eval(), samples, 0)
    assert list(compared)[:2] == ["attention", "att_cam"]
    assert list(compared)[6:10] == ["random", "centre", "sobel", "oracle"]
    assert list(compared)[10:] == ["centre_2x2", "sobel_2x2", "oracle_2x2"]
    coarse = {name for name, each in compared.items() if each.shape == (40, 2, 2)}
    assert coarse == {"gradcam", "gradcam_pp", "centre_2x2", "sobel_2x2", "oracle_2x2"}
    assert all(x.dtype == torch.float32 for x in compared.values())
    assert compared["attention"].equal(samples.attention)
    rows = torch.arange(40)
    expected = samples.trace.class_maps[rows, samples.predicted]
    torch.testing.assert_close(compared["att_cam"], expected)


def test_a_coarse_map_that_points_into_the_object_is_a_hit_on_its_own_grid() -> None:
    """Enlarged to 4 x 4, a map of 2 x 2 peaks in a corner, and the corner's centre is outside."""
    objects = torch.zeros(1, 32, 32, dtype=torch.bool)
    objects[:, 8:20, 8:20] = True
    coarse = maps.oracle_maps(objects, 2, 2)
    assert localisation.pointing(coarse, objects).tolist() == [1]  # pixel (8, 8)
    assert localisation.pointing(maps._resized(coarse, 4, 4), objects).tolist() == [0]  # (4, 4)
