"""A loss that teaches the network where to look, on images whose object is marked by a mask.

Learning an ABN's map from given maps follows Mitsuhara et al. (2019, arXiv:1905.03540), who edit
maps by hand. Their loss is the squared distance. This one is the correlation, by which maps of
where people look are trained and judged (CC: Cornia et al., 2018, arXiv:1611.09571; Bylinskii et
al., 2019, arXiv:1604.03605), for three reasons.
- It asks for the map's form, not its height. So it is the same for a map that is a sigmoid and for
  one that is scaled to [1 - contrast, 1], whatever the contrast.
- It treats all cells alike. The highest cell of a scaled map is 1 by construction, the lowest one
  1 - contrast. A squared distance would move these two only by way of the others; a cross-entropy
  would be infinite there.
- It does not drive a sigmoid to 0 or 1, where it no longer learns. The gradient of 1 - r in a cell
  is -(c - r a) / (n s): a and c are the map's and the object's deviations from their means in
  standard deviations, n the number of cells, s the standard deviation of the map. It is 0 where
  r = 1, and that takes the object's form alone.
The price: it is also 0 at r = -1. A map that is the exact opposite of the object stays so, which no
loss on a scaled map could help; such a map is left to the branch's own loss.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from abn.config.params import Train
from abn.data.loader import Batch
from abn.data.packed import Split
from abn.models.abn import Output
from abn.runtime.errors import ParamsError
from abn.runtime.rng import generator
from abn.training.distributed import SINGLE, World

# Standard deviation over the cells. A map far below it is flat: its r is near 0, and its gradient
# stays finite. Above it, r is nearly Pearson's: 0.93 of it at 0.075, 0.99 at 0.2.
FLAT = 0.03
EVEN = 1e-3  # the same of the object's shares: below it they do not say where the object is


def usable(split: Split, config: Train) -> Split:
    """`split` with its masks if an attention loss needs them, else without.

    ParamsError where it needs masks and the data have none.
    """
    if not config.attention_loss:
        return split.without_masks()
    if not split.has_mask.any():
        what, where = "the data have no masks", f"train.attention_loss = {config.attention_loss}"
        raise ParamsError(what, where, "set it to 0, or give images masks (docs/usage.md)")
    return split


def chosen(split: Split, share: float, seed: int, device: torch.device) -> Tensor:
    """The images whose masks are used: bool [N] on `device`, a `share` of those that have one.

    At least one, drawn evenly over the classes; a larger share has all images of a smaller one.
    None is chosen where there are no masks.
    """
    first = torch.zeros(len(split), dtype=torch.bool)
    known = split.has_mask.nonzero()[:, 0]
    count = max(1, round(share * len(known)))
    first[known[_even_order(split.labels.cpu()[known], seed)[:count]]] = True
    return first.to(device)


def misplacement(output: Output, batch: Batch, looks: bool, world: World = SINGLE) -> Tensor:
    """How far the maps in `output` are from the masks of `batch`: a scalar in [0, 2].

    It is the mean of 1 - r, r as in `correlation`, over those images of all ranks where r is
    defined; without any, 0. Its gradient, averaged over the ranks, is that of a single process.
    A network that `looks` shows the map of the class it predicts. It counts where that is the class
    of the image: the map of a class that is not in the picture has no right place.
    """
    assert batch.masks is not None
    r, counts = correlation(output.attention.float(), batch.masks)
    if looks:
        counts = counts & (output.attention_logits.argmax(1) == batch.targets.argmax(1))
    count = world.mean(counts.sum().float())  # images of a rank, on average
    return ((1 - r) * counts).sum() / count.clamp(min=1 / world.size)


def correlation(attention: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """The correlation r [B] in [-1, 1] of map and object over cells; where it is defined, bool [B].

    The object's value in a cell is the share of the cell it covers. r is defined where that is
    known and not the same in all cells. It is 0 for a flat map.
    """
    h, w = attention.shape[2:]
    shares = F.adaptive_avg_pool2d(objects.nan_to_num(), (h, w))
    a, c = (cells.flatten(1) - cells.mean((1, 2, 3))[:, None] for cells in (attention, shares))
    spread = torch.sqrt(a.square().mean(1) + FLAT**2)  # never a root of 0, which has no gradient
    width = c.square().mean(1).sqrt()
    known = objects.isfinite().flatten(1).all(1)
    return (a * c).mean(1) / (spread * width.clamp(min=EVEN)), known & (width > EVEN)


def _even_order(labels: Tensor, seed: int) -> Tensor:
    """The images int64 [N] in an order whose every beginning has its even share of each class."""
    places = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique().tolist():
        members, draws = (labels == label).nonzero()[:, 0], generator(seed, "masks", label)
        order = torch.randperm(len(members), generator=draws)
        start = torch.rand(1, generator=draws, dtype=torch.float64)  # no class always comes first
        places[members[order]] = (torch.arange(len(members)) + start) / len(members)
    return places.argsort(stable=True)
