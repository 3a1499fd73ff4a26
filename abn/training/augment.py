"""Batches of one epoch in random order, each image with its own crop, flip, colours and more.

Each random draw depends on (seed, epoch) and its use only, not on earlier draws. So an epoch can be
repeated or resumed, and one augmentation does not change the draws of the others.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from abn.config.params import Train
from abn.data.crop import crop, crop_objects
from abn.data.loader import Batch, Fetched, iterate
from abn.data.packed import Split
from abn.runtime.rng import generator
from abn.training import map_losses, trivial
from abn.training.distributed import SINGLE, World
from abn.training.trivial import grey

RATIO = (3 / 4, 4 / 3)  # width over height of a random crop in the original (Szegedy et al., 2015)
TRIES = 10
HOLE = (0.02, 0.2)  # share of the crop that random erasing takes (Zhong et al., 2020)
HOLE_RATIO = (0.3, 3.3)  # its width over height


class Draws(NamedTuple):
    """What is drawn for each of N images."""

    boxes: Tensor  # [N, 4], of the crop
    mirrored: Tensor  # bool [N]
    colours: Tensor  # [N, 3], factors of brightness, contrast and saturation
    operations: Tensor  # int64 [N], of trivial.OPERATIONS
    strengths: Tensor  # [N] in [-1, 1], theirs
    holes: Tensor  # [N, 4], of the crop; empty where nothing is erased


class Mix(NamedTuple):
    """How a batch is blended with itself shifted by one."""

    own: float  # weight of the image itself and of its label, in [0, 1]
    box: tuple[int, int, int, int] | None = None  # CutMix: top, bottom, left, right, in pixels


def batches(
    split: Split,
    config: Train,
    size: int,
    seed: int,
    epoch: int,
    device: torch.device,
    done: int = 0,
    world: World = SINGLE,
    fused: bool = False,
) -> Iterator[Batch]:
    """The batches of `epoch` after the first `done`: this rank's shard of each.

    images: [B, 3, size, size] in [0, 1], channels last; targets: [B, classes], rows sum to 1;
    masks: [B, 1, size, size], None without an attention loss. A last batch that is too short is
    dropped. `fused`: images are made by one kernel of Triton's, the same up to rounding; it was not
    measured on a GPU. It raises ValueError with TrivialAugment or masks.
    """
    split = map_losses.usable(split, config)
    count, batch = len(split), min(config.batch_size, len(split))
    steps, classes = count // batch, len(split.classes)
    order, own_draw, aspect = _order(split, config, seed, epoch)
    order, own_draw = (x[: steps * batch].view(steps, batch)[done:] for x in (order, own_draw))
    first, last = world.shard(batch)
    draws = Draws(*(draw.to(device) for draw in _draws(aspect, config, seed, epoch)))
    known = map_losses.chosen(split, config.attention_masks, seed, device)
    mixes = _mixes(config, steps, size, seed, epoch)[done:]
    half = device.type == "cuda" and config.precision == "bf16"  # fp16 is finer than bf16
    dtype = torch.float16 if half else torch.float32
    extra = int(world.size > 1 and any(mixes))  # the image before the shard, to mix its first with
    shard = torch.arange(first - extra, last) % batch
    fetching = iterate(split, order[:, shard], device)
    for mix, drawn, fetched in zip(mixes, own_draw[:, shard].to(device), fetching, strict=True):
        own = Draws(*(draw[drawn] for draw in draws))
        if fused:
            images = _sampled(fetched, own, mix, config, size, dtype)
            targets = blend_targets(F.one_hot(fetched.labels, classes).float(), mix)
            yield Batch(images[extra:], targets[extra:])
            continue
        images = crop(fetched.canvases, own.boxes, own.mirrored, size, dtype)
        images = _augmented(images, own, config)
        masks = _objects(fetched, own, known, size)
        mixed = blend(Batch(images, F.one_hot(fetched.labels, classes).float(), masks), mix)
        # Last, because augmentation is faster on colour planes and convolutions on channels last.
        images = mixed.images[extra:].contiguous(memory_format=torch.channels_last)
        masks = None if mixed.masks is None else mixed.masks[extra:]
        yield Batch(images, mixed.targets[extra:], masks)


def sampling(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """As many images as there are `labels` int64 [N], every class equally often: int64 [N].

    In random order. What K classes cannot share equally goes to random ones, one image each. In a
    class the numbers of times that two images come differ by at most 1.
    """
    draws = generator(seed, "sampling", epoch)
    shuffled = torch.randperm(len(labels), generator=draws)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    members = by_class.split([n for n in labels.bincount().tolist() if n])
    share, over = divmod(len(labels), len(members))
    has_more = torch.randperm(len(members), generator=draws) < over
    drawn = [
        images[torch.arange(share + more) % len(images)]
        for images, more in zip(members, has_more.tolist(), strict=True)
    ]
    return torch.cat(drawn)[torch.randperm(len(labels), generator=draws)]


def _order(split: Split, config: Train, seed: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
    """The images of an epoch in order, int64 [N]; which draw each has; the aspects to draw for.

    An image may come twice in an epoch of samples. So draws are then for each place in the epoch.
    """
    aspect = split.aspect.cpu()
    if config.balance == "sampling":
        order = sampling(split.labels.cpu(), seed, epoch)
        return order, torch.arange(len(split)), aspect[order]
    order = torch.randperm(len(split), generator=generator(seed, "order", epoch))
    return order, order, aspect


def random_boxes(aspect: Tensor, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Boxes [N, 4] of random-resized crops: top, left, height, width as shares of the image.

    `aspect` [N] is width over height. As torchvision's RandomResizedCrop: the area is in `scale`,
    the ratio in RATIO; the first of TRIES draws that fits, else a centre crop of the nearest ratio.
    """
    n = len(aspect)
    draws = torch.rand(4, n, TRIES, generator=generator)
    area = (scale[0] + (scale[1] - scale[0]) * draws[0]) * aspect[:, None]  # the height is 1
    ratio = _log_uniform(draws[1], RATIO)
    height, width = torch.sqrt(area / ratio), torch.sqrt(area * ratio) / aspect[:, None]
    fits = (height <= 1) & (width <= 1)
    first = fits.to(torch.uint8).argmax(dim=1)[:, None]
    height, width = height.gather(1, first)[:, 0], width.gather(1, first)[:, 0]
    nearest = aspect.clamp(*RATIO)  # the ratio of the fallback
    none = ~fits.any(dim=1)
    height = torch.where(none, (aspect / nearest).clamp(max=1), height)
    width = torch.where(none, (nearest / aspect).clamp(max=1), width)
    position = torch.where(none, 0.5, draws[2:, :, 0])
    top, left = (1 - height) * position[0], (1 - width) * position[1]
    return torch.stack([top, left, height, width], dim=1)


def random_holes(count: int, share: float, generator: torch.Generator) -> Tensor:
    """Boxes [N, 4] for `erase`, as shares of the crop; a `share` of them is not empty."""
    draws = torch.rand(5, count, generator=generator)
    area = HOLE[0] + (HOLE[1] - HOLE[0]) * draws[0]
    ratio = _log_uniform(draws[1], HOLE_RATIO)
    extent = torch.stack([torch.sqrt(area / ratio), torch.sqrt(area * ratio)], dim=1)
    extent = extent * (draws[2] < share)[:, None]
    return torch.cat([(1 - extent) * draws[3:].T, extent], dim=1)


def jitter(images: Tensor, factors: Tensor) -> Tensor:
    """`images` [B, 3, H, W] with brightness, contrast and saturation scaled by `factors` [B, 3]."""
    brightness, contrast, saturation = factors.T[..., None, None, None]
    x = (images * brightness).clamp_(max=1)
    x = grey(x).mean(dim=(2, 3), keepdim=True).lerp(x, contrast).clamp_(0, 1)
    return grey(x).lerp(x, saturation).clamp_(0, 1)


def erase(images: Tensor, holes: Tensor, value: float = 0.5) -> Tensor:
    """`images` [B, C, H, W] with `value`, mid-grey, inside `holes` [B, 4]: shares as of a box."""
    top, left, height, width = holes.T[..., None]
    centres = (torch.arange(images.shape[2], device=images.device) + 0.5) / images.shape[2]
    rows = (centres >= top) & (centres < top + height)  # [B, H]
    columns = (centres >= left) & (centres < left + width)
    return images.masked_fill((rows[:, :, None] & columns[:, None])[:, None], value)


def blend(batch: Batch, mix: Mix | None) -> Batch:
    """Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019) of each image with the one before it.

    The targets are mixed with the same weights. A mixed batch has no mask that is known: where two
    pictures share a frame, the one map of the network has no one right place.
    """
    if mix is None:
        return batch
    images = batch.images
    other = images.roll(1, dims=0)
    if mix.box is None:
        images = other.lerp(images, mix.own)
    else:
        top, bottom, left, right = mix.box
        images = images.clone()
        images[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    masks = None if batch.masks is None else torch.full_like(batch.masks, torch.nan)
    return Batch(images, blend_targets(batch.targets, mix), masks)


def blend_targets(targets: Tensor, mix: Mix | None) -> Tensor:
    """`targets` [B, K], each mixed with the one before it."""
    return targets if mix is None else targets.roll(1, dims=0).lerp(targets, mix.own)


def _sampled(
    fetched: Fetched, own: Draws, mix: Mix | None, config: Train, size: int, dtype: torch.dtype
) -> Tensor:
    """The images of a batch as `batches` makes them, by one kernel."""
    from abn.training import triton_sampler  # here, because Triton is for GPUs only

    if config.trivial or fetched.masks is not None:
        raise ValueError("the kernel has neither TrivialAugment nor masks")
    colours = own.colours if config.jitter else None
    drawn = own.boxes, own.mirrored, colours, own.holes
    return triton_sampler.sampled(fetched.canvases, *drawn, mix, size, dtype)


def _augmented(images: Tensor, own: Draws, config: Train) -> Tensor:
    """The crops `images` [B, 3, S, S] in other colours, moved and erased, as `config` has it."""
    if config.jitter:
        images = jitter(images, own.colours.to(images.dtype))
    if config.trivial:
        images = trivial.move(images, own.operations, own.strengths)
        images = trivial.recolour(images, own.operations, own.strengths)
    return erase(images, own.holes) if config.erase else images


def _objects(fetched: Fetched, own: Draws, known: Tensor, size: int) -> Tensor | None:
    """The masks of a batch, as `Batch.masks`: cropped, moved and erased as its images are.

    What was erased is object no longer: no map should point at what cannot be seen.
    """
    if fetched.masks is None:
        return None
    objects = crop_objects(fetched.masks, own.boxes, own.mirrored, size)
    objects = trivial.move(objects, own.operations, own.strengths, outside=0)
    unknown = ~known[fetched.rows][:, None, None, None]
    return erase(objects, own.holes, 0).masked_fill(unknown, torch.nan)


def _draws(aspect: Tensor, config: Train, seed: int, epoch: int) -> Draws:
    """What is drawn for each image of the split."""
    count, uses = len(aspect), ("augment", "jitter", "trivial", "erase")
    draws, colour_draws, own_draws, hole_draws = (generator(seed, use, epoch) for use in uses)
    boxes = random_boxes(aspect, config.crop_scale, draws)
    mirrored = (torch.rand(count, generator=draws) < 0.5) & bool(config.flip)
    if config.flip == "alternating":  # drawn once, then mirrored every other epoch
        once = torch.rand(count, generator=generator(seed, "flip")) < 0.5
        mirrored = once ^ bool(epoch % 2)
    colours = 1 + config.jitter * (2 * torch.rand(count, 3, generator=colour_draws) - 1)
    operations = trivial.draw(count, config.trivial, own_draws)
    holes = random_holes(count, config.erase, hole_draws)
    return Draws(boxes, mirrored, colours, *operations, holes)


def _mixes(config: Train, steps: int, size: int, seed: int, epoch: int) -> list[Mix | None]:
    """How the batch of each step of an epoch is mixed; None: it is not."""
    if not config.mix_share or epoch >= config.mix_until * config.epochs:
        return [None] * steps
    draws = np.random.default_rng(generator(seed, "mix", epoch).initial_seed())
    return [_mix(config, size, draws) for _ in range(steps)]


def _mix(config: Train, size: int, draws: np.random.Generator) -> Mix | None:
    if draws.random() >= config.mix_share:
        return None
    if not config.cutmix or (config.mixup and draws.random() < 0.5):
        return Mix(draws.beta(config.mixup, config.mixup))
    side = math.sqrt(1 - draws.beta(config.cutmix, config.cutmix)) * size
    y, x = draws.random(2) * size
    edges = (y - side / 2, y + side / 2, x - side / 2, x + side / 2)
    top, bottom, left, right = (min(max(round(edge), 0), size) for edge in edges)
    return Mix(1 - (bottom - top) * (right - left) / size**2, (top, bottom, left, right))


def _log_uniform(draws: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Map uniform `draws` in [0, 1) to `bounds`, uniformly in the logarithm."""
    low, high = math.log(bounds[0]), math.log(bounds[1])
    return torch.exp(low + (high - low) * draws)
