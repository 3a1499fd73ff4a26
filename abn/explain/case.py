"""What is explained: some images of a split, what the network says of them, where the object is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from abn.data import loader
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.models.abn import AttentionBranchNetwork, Trace
from abn.runtime.rng import generator

BATCH = 50  # images the network sees at once
OBJECT = 1  # in the masks of a split
Classify = Callable[[Tensor], Tensor]  # images [N, 3, H, W] -> probabilities [N, K]
Explainer = Callable[[Tensor], dict[str, Tensor]]  # images [N, 3, H, W] -> {map: [N, h, w]}
ClassExplainer = Callable[[Tensor, Tensor], dict[str, Tensor]]  # and the classes [N] to explain


@dataclass(frozen=True)
class Subject:
    """N images and the decisions to be explained, on the model's device."""

    index: Tensor  # int64 [N]: where they are in their split
    images: Tensor  # float32 [N, 3, H, W] in [0, 1]
    labels: Tensor  # int64 [N]
    trace: Trace  # the forward pass; the decisions are the perception branch's, right or wrong
    masks: Tensor | None  # uint8 [N, H, W], as `data.Sample.mask`

    def at(self, rows: Tensor) -> "Subject":
        """The images at `rows` int64 [n]."""
        here = rows.to(self.images.device)
        trace = Trace(*(column[here] for column in self.trace))
        masks = None if self.masks is None else self.masks[here]
        return Subject(self.index[rows], self.images[here], self.labels[here], trace, masks)

    @property
    def predicted(self) -> Tensor:
        """The classes whose maps are scored, int64 [N]."""
        return self.trace.logits.argmax(1)

    @property
    def attention(self) -> Tensor:
        """The map under test, [N, h, w] in (0, 1)."""
        return self.trace.attention[:, 0]

    @property
    def objects(self) -> Tensor | None:
        """Where the object is, bool [N, H, W]."""
        return None if self.masks is None else self.masks == OBJECT


def choose(split: Split, count: int, seed: int) -> Tensor:
    """Indices int64, ascending, of the images to explain: the same for the same seed."""
    return balanced(split.labels, count, generator(seed, "explain", "images"))


def balanced(labels: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """Indices int64, ascending, of `count` samples drawn evenly over the classes, or of all."""
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=draws)
    turn = torch.zeros(len(labels), dtype=torch.int64)  # how many of its class are drawn before
    for label in range(int(labels.max()) + 1):
        members = labels[order] == label
        turn[members] = torch.arange(int(members.sum()))
    return order[turn.argsort(stable=True)[:count]].sort().values


def observe(
    model: AttentionBranchNetwork, split: Split, index: Tensor, view: CenterCrop
) -> Subject:
    """The images of `split` at `index` int64 [N], and what `model` says of them."""
    device = next(model.parameters()).device
    chosen = split.take(index)
    images = _shown(chosen.images, chosen, view, device)
    masks = None if chosen.masks is None else _masks(chosen.masks, chosen, view, device)
    with torch.no_grad():
        passes = [model.trace(part) for part in images.split(BATCH)]
    trace = Trace(*(torch.cat(column) for column in zip(*passes, strict=True)))
    return Subject(index, images, chosen.labels.to(device), trace, masks)


def _shown(canvases: Tensor, split: Split, view: CenterCrop, device: torch.device) -> Tensor:
    return loader.transform(canvases.to(device), split.aspect, view)


def _masks(masks: Tensor, split: Split, view: CenterCrop, device: torch.device) -> Tensor:
    """Each pixel goes to the part that covers most of it, on its canvas and in the view."""
    values = range(int(masks.max()) + 1)
    planes = torch.stack([masks == value for value in values], -1).to(torch.uint8) * 255
    shown = [
        _shown(planes[..., [value]].expand(-1, -1, -1, 3), split, view, device)[:, 0]
        for value in values
    ]
    return torch.stack(shown).argmax(0).to(torch.uint8)


def batched(explain: ClassExplainer, classes: Tensor, batch: int = BATCH) -> Explainer:
    """Explains `classes` [N] whatever becomes of the images, `batch` of them at once."""

    def explainer(images: Tensor) -> dict[str, Tensor]:
        pairs = zip(images.split(batch), classes.split(batch), strict=True)
        parts = [explain(*pair) for pair in pairs]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    return explainer
