"""What a network saw in images, as pictures: its maps, what they left of an image, and do(c')."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from abn.explain.case import BATCH, Samples, batched
from abn.explain.faithfulness import BLUR, blur
from abn.explain.maps import network_maps
from abn.explain.sufficiency import sufficient_masks
from abn.models.abn import AttentionBranchNetwork
from abn.visualize.overlay import seen
from abn.visualize.tiles import ATTENTION, Enough, Heat, Look, Map, Pixels, Scale, Tile, WhatIf

DRAWN = (ATTENTION, "att_cam", "grad_attention", "hirescam", "gradcam", "gradcam_pp")


def tiles(
    model: AttentionBranchNetwork, samples: Samples, classes: Sequence[str], name: str
) -> list[Tile]:
    """A tile for each of the samples, with the map `name` of DRAWN for the class predicted."""
    confidence, predicted = samples.trace.logits.softmax(1).max(1)
    attention = samples.attention.cpu().numpy()
    other = _heats(model, samples, name) if name != ATTENTION else [None] * len(attention)
    look = _looks(samples, classes) if model.looks else [None] * len(attention)
    scale = (float(attention.min()), 1.0) if model.looks else (0.0, 1.0)
    return [
        Tile(
            pixels,
            attention[i],
            classes[int(samples.labels[i])],
            classes[int(predicted[i])],
            float(confidence[i]),
            other[i],
            look[i],
            scale,
        )
        for i, pixels in enumerate(_pixels(samples.images))
    ]


def enough(model: AttentionBranchNetwork, samples: Samples, name: str) -> list[Enough | None]:
    """The smallest part of each image, by the map `name` of DRAWN, that keeps the decision.

    Hidden as in `sufficient_masks`. None where nothing has to be shown to keep it.
    """
    masks = sufficient_masks(model, samples, _maps(model, samples, name)).unsqueeze(1)
    images = samples.images
    shown = seen(images, masks.to(images)) if model.looks else _blurred(images, masks)
    shares = masks.double().mean((1, 2, 3)).tolist()
    return [
        Enough(picture, share, name) if share else None
        for picture, share in zip(_pixels(shown), shares, strict=True)
    ]


def _blurred(images: Tensor, masks: Tensor) -> Tensor:
    """`images` [B, 3, H, W], blurred where `masks` bool [B, 1, H, W] are not set."""
    return torch.where(masks, images, blur(images, BLUR * images.shape[-1]))


def evidence(samples: Samples) -> list[tuple[Map, Map]]:
    """The attention branch's map of the class predicted, and of the true class."""
    pairs = torch.stack([samples.predicted, samples.labels], 1)
    rows = torch.arange(len(pairs), device=pairs.device).unsqueeze(1)
    maps = samples.trace.class_maps[rows, pairs].cpu().numpy()
    return [(predicted, true) for predicted, true in maps]


@torch.no_grad()
def what_if(
    model: AttentionBranchNetwork, samples: Samples, classes: Sequence[str]
) -> list[WhatIf | None]:
    """What the network says when its map is that of the true class.

    None where it was that class's map already, and in a residual network: it has one map for all.
    """
    if not model.looks:
        return [None] * len(samples.labels)
    features, class_maps, _, logits = samples.trace
    true = samples.labels.unsqueeze(1)
    attention = model.class_attention(class_maps, samples.labels)
    columns = (part.split(BATCH) for part in (samples.images, features, attention))
    parts = (model.attend(*part) for part in zip(*columns, strict=True))
    after = torch.cat([model.perception_branch(part) for part in parts]).softmax(1)
    confidence, predicted = after.max(1)
    other = _named(samples) != samples.labels
    before, after = (shares.gather(1, true)[:, 0] for shares in (logits.softmax(1), after))
    return [
        WhatIf(
            pixels,
            classes[int(predicted[i])],
            float(confidence[i]),
            float(before[i]),
            float(after[i]),
            corrects=bool(predicted[i] == samples.labels[i]),
        )
        if other[i]
        else None
        for i, pixels in enumerate(_pixels(seen(samples.images, attention)))
    ]


def _maps(model: AttentionBranchNetwork, samples: Samples, name: str) -> Tensor:
    """The map `name` of each sample for the class predicted, [N, h, w]."""
    if name == ATTENTION:
        return samples.attention

    def explain(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {name: network_maps(model, images, labels)[name]}

    return batched(explain, samples.predicted)(samples.images)[name]


def _heats(model: AttentionBranchNetwork, samples: Samples, name: str) -> list[Heat]:
    """The map `name` of each sample, all on one scale."""
    maps = _maps(model, samples, name).cpu().numpy()
    return [Heat(name, values, _scale(maps)) for values in maps]


def _scale(maps: Map) -> Scale:
    """From the lowest to the highest cell of `maps`; of one unit where they are equal."""
    low, high = float(maps.min()), float(maps.max())
    return low, high if high > low else low + 1


def _looks(samples: Samples, classes: Sequence[str]) -> list[Look]:
    """What the attention map is made of and what it leaves of each image."""
    named = _named(samples)
    ours = samples.trace.class_maps[torch.arange(len(named), device=named.device), named]
    logits = ours.amax((1, 2)) - ours.amin((1, 2))
    pictures = _pixels(seen(samples.images, samples.trace.attention))
    return [
        Look(picture, classes[int(named[i])], float(logits[i]))
        for i, picture in enumerate(pictures)
    ]


def _named(samples: Samples) -> Tensor:
    """The classes int64 [N] whose maps became the attention: the attention branch's predictions."""
    return samples.trace.class_maps.mean((2, 3)).argmax(1)


def _pixels(images: Tensor) -> list[Pixels]:
    """Images [B, 3, H, W] in [0, 1] as uint8 [H, W, 3] each."""
    pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
    return [np.asarray(picture) for picture in pixels.numpy()]
