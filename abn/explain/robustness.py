"""Does a map stay where it should and change where it must?

It should survive noise too weak to change the prediction, follow the image when that is mirrored
or shifted, and come out alike when the training is repeated. It must change when the weights that
made it are drawn anew, and show a class where that class is.

An `Explainer` is always given all N images in their order; `batched` makes one.
"""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abn.explain.faithfulness import Classify
from abn.explain.statistics import spearman
from abn.models.abn import AttentionBranchNetwork

Explainer = Callable[[Tensor], dict[str, Tensor]]  # images [N, 3, H, W] -> {map: [N, h, w]}
ClassExplainer = Callable[[Tensor, Tensor], dict[str, Tensor]]  # and the classes [N] to explain

BATCH = 50  # images explained at once
RADIUS = 0.02  # of the noise, where a pixel goes from 0 to 1
SHARE = 5  # one cell in so many is a top cell

# What can be drawn anew: the network's own modules, bottom-up.
ATTENTION = ("att_layer4", "bn_att", "att_conv", "bn_att2", "att_conv2", "att_conv3", "bn_att3")
STEPS: dict[str, tuple[str, ...]] = {
    "conv1": ("conv1", "bn1"),
    "layer1": ("layer1",),
    "layer2": ("layer2",),
    "layer3": ("layer3",),
    "attention": ATTENTION,
    "perception": ("layer4", "fc"),
}
CASCADE = dict(zip(STEPS, itertools.accumulate(STEPS.values()), strict=True))  # and all below
PARTS = {
    "attention": STEPS["attention"],
    "perception": STEPS["perception"],
    "all": CASCADE["perception"],
}


def batched(explain: ClassExplainer, classes: Tensor, batch: int = BATCH) -> Explainer:
    """Explains `classes` [N] whatever becomes of the images, `batch` of them at once."""

    def explainer(images: Tensor) -> dict[str, Tensor]:
        pairs = zip(images.split(batch), classes.split(batch), strict=True)
        parts = [explain(*pair) for pair in pairs]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    return explainer


def similarity(maps: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rank correlation [N] of each of `maps` [N, h, w] with its namesake in `others`."""
    return {name: spearman(maps[name].flatten(1), others[name].flatten(1)) for name in maps}


def sensitivity(
    explain: Explainer,
    classify: Classify,
    images: Tensor,
    draws: int,
    generator: torch.Generator,
    radius: float = RADIUS,
) -> dict[str, Tensor]:
    """The largest relative change |A(x + e) - A(x)| / |A(x)| of each map over `draws`, [N].

    Max-sensitivity (Yeh et al., NeurIPS 2019): e uniform in +-radius, x + e clipped to [0, 1].
    A draw that changes the prediction does not count; NaN where none does, or A(x) is all zero.
    """
    still, predicted = explain(images), _predict(classify, images)
    sizes = {name: _length(maps) for name, maps in still.items()}
    worst = {name: torch.full_like(size, torch.nan) for name, size in sizes.items()}
    for _ in range(draws):
        noise = torch.rand(images.shape, generator=generator, device=generator.device)
        moved = (images + radius * (2 * noise - 1).to(images.device)).clamp(0, 1)
        same = _predict(classify, moved) == predicted
        for name, maps in explain(moved).items():
            change = _length(maps - still[name]) / sizes[name]
            counted = change.where(same & (sizes[name] > 0), torch.nan)
            worst[name] = worst[name].fmax(counted)  # a number beats NaN
    return worst


@torch.no_grad()
def _predict(classify: Classify, images: Tensor) -> Tensor:
    return torch.cat([classify(part).argmax(1) for part in images.split(BATCH)])


def _length(maps: Tensor) -> Tensor:
    return torch.linalg.vector_norm(maps, dim=(1, 2), dtype=torch.float64)


def flip_equivariance(explain: Explainer, images: Tensor) -> dict[str, Tensor]:
    """The rank correlation [N] of a mirrored image's map with the image's map, mirrored."""
    mirrored = {name: maps.flip(-1) for name, maps in explain(images).items()}
    return similarity(mirrored, explain(images.flip(-1)))


def shift_equivariance(explain: Explainer, images: Tensor, pixels: int) -> dict[str, Tensor]:
    """The rank correlation [N] of maps before and after the image moves right by a whole cell.

    `pixels` is a cell's side. The left edge is repeated; the cells that both show are compared.
    """
    shifted = F.pad(images, (pixels, 0, 0, 0), mode="replicate")[..., :-pixels]
    before = {name: maps[..., :-1] for name, maps in explain(images).items()}
    return similarity(before, {name: maps[..., 1:] for name, maps in explain(shifted).items()})


@torch.no_grad()
def randomise(
    model: AttentionBranchNetwork,
    modules: Sequence[str],
    images: Tensor,
    generator: torch.Generator,
) -> AttentionBranchNetwork:
    """A copy of `model` whose `modules` know nothing (Adebayo et al., NeurIPS 2018).

    Their weights are drawn anew in the order given, so that with equal generators the steps of
    CASCADE share theirs; bottom-up, as Hedström et al. (2401.06465) advise. The statistics of their
    norms are measured on `images` [N, 3, H, W], lest the signal die or explode.
    """
    device = next(model.parameters()).device
    random = copy.deepcopy(model).cpu()  # where the generator is
    redrawn = [module for name in modules for module in random.get_submodule(name).modules()]
    for module in redrawn:
        _redraw(module, generator)
    random.to(device).eval()
    norms = [module for module in redrawn if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = None  # the mean over all batches
    for part in images.tensor_split(-(-len(images) // BATCH)):
        random(part)
    return random.eval()


def _redraw(module: nn.Module, generator: torch.Generator) -> None:
    """He initialisation of a convolution, torch's default of a linear layer, a norm reset."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, 0, "fan_out", "relu", generator)
    elif isinstance(module, nn.Linear):
        bound = module.in_features**-0.5
        for parameter in module.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()


def stability(maps: Tensor) -> tuple[Tensor, Tensor]:
    """How alike S > 1 trained networks' maps [S, N, h, w] of the same images are: two scores [N].

    The IoU of the top 20 % of the cells (rounded up, the first of equals; LFI-CAM, ICCV 2021), and
    the rank correlation; means over the pairs.
    """
    rows = maps.flatten(2)
    count = -(-rows.shape[2] // SHARE)
    places = rows.argsort(dim=2, descending=True, stable=True).argsort(2)
    ious, correlations = [], []
    for a, b in itertools.combinations(range(len(maps)), 2):
        shared = ((places[a] < count) & (places[b] < count)).sum(1).double()
        ious.append(shared / (2 * count - shared))
        correlations.append(spearman(rows[a], rows[b]))
    return torch.stack(ious).mean(0), torch.stack(correlations).mean(0)


def mosaics(
    images: Tensor, labels: Tensor, correct: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor] | None:
    """`count` mosaics [count, 3, 2H, 2W] of 2 x 2 images and their classes int64 [count, 4].

    Four different classes, each at random, not by confidence, from the images `correct` bool [N];
    quadrants along the rows. None where fewer than four classes have a correct image.
    """
    known, sure = labels.cpu(), correct.cpu()
    present = known[sure].unique()
    if len(present) < 4:
        return None
    order = torch.rand(count, len(present), generator=generator).argsort(1)
    classes = present[order[:, :4]]
    fits = sure & (known == classes.unsqueeze(2))  # [count, 4, N]
    picks = torch.rand(fits.shape, generator=generator).where(fits, -1).argmax(2)
    tiles = images[picks.to(images.device)].unflatten(1, (2, 2))  # [count, 2, 2, 3, H, W]
    whole = tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return whole, classes.to(labels.device)


def mosaic_pointing(explain: ClassExplainer, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """`grid_pointing` [4 C] of each map on mosaics [C, 3, 2H, 2W] of `classes` [C, 4]."""
    quadrants = [batched(explain, column, BATCH // 4)(images) for column in classes.T]
    names = quadrants[0]
    stacked = {name: torch.stack([maps[name] for maps in quadrants], 1) for name in names}
    return {name: grid_pointing(maps) for name, maps in stacked.items()}


def grid_pointing(maps: Tensor) -> Tensor:
    """The share [4 C] of each positive mass in its own quadrant (Böhle et al., CVPR 2021).

    `maps` [C, 4, h, w] explain the classes of the four quadrants. Chance, and the score of a map
    without positive mass, is 0.25: also the mean of any map that is the same for every class.
    """
    mass = maps.double().clamp_min(0)
    halves = mass.repeat_interleave(2, 2).repeat_interleave(2, 3)  # also of a middle row or column
    inside = halves.unflatten(3, (2, -1)).unflatten(2, (2, -1)).sum((3, 5)).flatten(2)  # [C, 4, 4]
    inside = inside + torch.finfo(torch.float64).tiny  # even where there is none
    return (inside / inside.sum(2, keepdim=True)).diagonal(dim1=1, dim2=2).flatten()
