"""What is explained: a network, N images, its decisions on them, and the maps to score.

Every score family takes a `Case` and returns `Scores`. What several of them need is computed once,
by `Case.once`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from abn.data import loader
from abn.data.loader import CenterCrop
from abn.data.packed import OBJECT, Split
from abn.models.abn import AttentionBranchNetwork, Trace
from abn.runtime.rng import generator

BATCH = 50  # images the network sees at once, where a gradient may be needed
PICTURES = 200  # at once where none is: on two CPU cores that is 1.4 times as fast
# Below this ratio of the largest gain to the smallest (`faithfulness.gain`), no place counts ten
# per cent more than any other, and a map is called flat.
FLAT = 1.1

T = TypeVar("T")
# map -> score -> float64 [N], NaN where not scored; [draws, N] where images share random weights
Scores = dict[str, dict[str, Tensor]]
Classify = Callable[[Tensor], Tensor]  # images [N, 3, H, W] -> probabilities [N, K]
Explainer = Callable[[Tensor], dict[str, Tensor]]  # images [N, 3, H, W] -> {map: [N, h, w]}
ClassExplainer = Callable[[Tensor, Tensor], dict[str, Tensor]]  # and the classes [N] to explain


class Budget(NamedTuple):
    """What a profile spends where the gates do not need every image.

    More of it makes intervals narrower and adds rows; it changes no score's definition.
    """

    rise_images: int
    rise_masks: int
    rival_images: int  # of the maps and the baseline that no gate of the attention map needs
    sufficiency_images: int
    robustness_images: int  # also of randomisation
    randomisations: int  # networks with random weights, for each part
    mosaics: int
    cascade: bool  # whether weights are also randomised layer by layer


BUDGETS = {
    "quick": Budget(20, 100, 40, 40, 30, 5, 30, cascade=False),
    "full": Budget(20, 1000, 200, 200, 50, 10, 100, cascade=True),
}


class Pictures(NamedTuple):
    """N pictures rendered again, with and without their parts; canvases are uint8 [N, S, S, 3]."""

    whole: Tensor
    masks: Tensor  # uint8 [N, S, S], as `shapes.MASK`
    without: dict[str, Tensor]  # by part; a background is replaced by the next picture's


@dataclass(frozen=True)
class Samples:
    """N images and the decisions to explain, on the model's device."""

    index: Tensor  # int64 [N]: where they are in their split
    images: Tensor  # float32 [N, 3, H, W] in [0, 1]
    labels: Tensor  # int64 [N]
    trace: Trace  # the decisions are the perception branch's, right or wrong
    masks: Tensor | None  # uint8 [N, H, W], as `data.Sample.mask`; 0 where one is not known

    def take(self, rows: Tensor) -> "Samples":
        """The samples at `rows` int64 [n]."""
        here = rows.to(self.images.device)
        trace = Trace(*(column[here] for column in self.trace))
        masks = None if self.masks is None else self.masks[here]
        return Samples(self.index[rows], self.images[here], self.labels[here], trace, masks)

    @property
    def predicted(self) -> Tensor:
        """The classes whose maps are scored, int64 [N]."""
        return self.trace.logits.argmax(1)

    @property
    def attention(self) -> Tensor:
        """The map under test, [N, h, w] in [0, 1]."""
        return self.trace.attention[:, 0]

    @property
    def objects(self) -> Tensor | None:
        """Where the object is, bool [N, H, W]; nowhere in an image without a mask."""
        return None if self.masks is None else self.masks == OBJECT

    @property
    def located(self) -> Tensor:
        """The images whose object is known and in view, bool [N]."""
        if self.objects is None:
            return torch.zeros_like(self.labels, dtype=torch.bool)
        return self.objects.flatten(1).any(1)


@dataclass(frozen=True, eq=False)
class Case:
    """Everything that a score family may use."""

    model: AttentionBranchNetwork
    samples: Samples
    maps: dict[str, Tensor]  # by name, each [N, h, w]
    budget: Budget
    steps: int  # of an insertion or deletion curve
    seed: int
    view: CenterCrop  # how the model is shown images
    train: "Case | None" = None  # the model on training images that have masks, if there are any
    siblings: Sequence[AttentionBranchNetwork] = ()  # the same network from other seeds
    pictures: Pictures | None = None  # the samples, rendered again without their parts
    _results: dict[Any, Any] = field(init=False, default_factory=dict)

    def once(self, compute: Callable[["Case"], T]) -> T:
        """The result of `compute(case)`, computed at the first call and then remembered."""
        if compute not in self._results:
            self._results[compute] = compute(self)
        return self._results[compute]

    def generator(self, *use: str | int) -> torch.Generator:
        """The random draws for one use: always the same ones."""
        return generator(self.seed, "explain", *use)

    def control(self, name: str, kind: str) -> str | None:
        """The control of `kind` ("centre", "sobel", "oracle") on the grid of the map `name`.

        Its name in `maps`, for example "centre_2x2"; None where it was not made. A map that is not
        in `maps` (RISE's) is on the attention's grid.
        """
        own = self.maps["attention"]
        grid = self.maps.get(name, own).shape[1:]
        same = (key for key in self.maps if key.partition("_")[0] == kind)
        return next((key for key in same if self.maps[key].shape[1:] == grid), None)

    def applies(self, name: str) -> Tensor:
        """The samples that have the map `name`, bool [N] on the CPU: the oracle needs an object."""
        located = self.samples.located.cpu()
        return located if name.partition("_")[0] == "oracle" else torch.ones_like(located)

    def some(self, count: int, use: str) -> tuple[Tensor, Samples]:
        """`count` rows int64, evenly over the classes, and their samples: for expensive scores."""
        rows = balanced(self.samples.labels, count, self.generator(use))
        return rows, self.samples.take(rows)

    def classify(self, images: Tensor) -> Tensor:
        """The perception branch's probabilities [N, K] of `images` [N, 3, H, W]."""
        return self.model(images).logits.softmax(1)

    def spread(self, values: Tensor, rows: Tensor) -> Tensor:
        """Values [..., n] of the samples at `rows` as float64 [..., N] on the CPU.

        NaN for the other samples.
        """
        shape = (*values.shape[:-1], len(self.samples.images))
        spread = torch.full(shape, torch.nan, dtype=torch.float64)
        spread[..., rows] = values.cpu().double()
        return spread

    def scores(self, values: Mapping[str, Mapping[str, Tensor]], rows: Tensor) -> Scores:
        """`values`, by score and map, of the samples at `rows`, as `Scores`."""
        names = next(iter(values.values()))
        return {
            name: {score: self.spread(by_map[name], rows) for score, by_map in values.items()}
            for name in names
        }


def select(split: Split, count: int, seed: int) -> Tensor:
    """Indices int64, ascending, of the images to explain: the same for the same seed."""
    return balanced(split.labels, count, generator(seed, "explain", "images"))


def balanced(labels: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """Indices int64, ascending, of `count` samples drawn evenly over the classes, or of all."""
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=draws)
    rank = torch.zeros(len(labels), dtype=torch.int64)  # how many of its class come before
    for label in range(int(labels.max()) + 1):
        members = labels[order] == label
        rank[members] = torch.arange(int(members.sum()))
    return order[rank.argsort(stable=True)[:count]].sort().values


@torch.no_grad()
def collect(
    model: AttentionBranchNetwork, split: Split, index: Tensor, view: CenterCrop
) -> Samples:
    """The images of `split` at `index` int64 [N], and the model's forward pass of them."""
    device = next(model.parameters()).device
    part = split.take(index)
    images = loader.transform(part.images.to(device), part.aspect, view)
    masks = None if part.masks is None else _masks(part.masks.to(device), part.aspect, view)
    if masks is not None and not (masks == OBJECT).any():
        masks = None
    traces = [model.trace(batch) for batch in images.split(PICTURES)]
    trace = Trace(*(torch.cat(column) for column in zip(*traces, strict=True)))
    return Samples(index, images, part.labels.to(device), trace, masks)


def _masks(masks: Tensor, aspect: Tensor, view: CenterCrop) -> Tensor:
    """Each pixel goes to the part that covers most of it, on its canvas and in the crop."""
    parts = [(masks == part).to(torch.uint8) * 255 for part in range(int(masks.max()) + 1)]
    canvases = (part[..., None].expand(-1, -1, -1, 3) for part in parts)
    shares = [loader.transform(canvas, aspect, view)[:, 0] for canvas in canvases]
    return torch.stack(shares).argmax(0).to(torch.uint8)


def batched(explain: ClassExplainer, classes: Tensor, batch: int = BATCH) -> Explainer:
    """An explainer of `classes` [N] that shows the network `batch` images at once.

    It is always given all N images, in their order.
    """

    def explainer(images: Tensor) -> dict[str, Tensor]:
        pairs = zip(images.split(batch), classes.split(batch), strict=True)
        parts = [explain(*pair) for pair in pairs]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    return explainer
