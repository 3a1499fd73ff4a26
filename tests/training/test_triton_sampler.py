"""One kernel makes the batches that torch's many make; interpreted where there is no GPU."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from abn.config.params import Params, Train
from abn.data.packed import Split
from abn.training import augment
from abn.training.distributed import World
from tests import toys

sampler = pytest.importorskip(
    "abn.training.triton_sampler", reason="needs Triton", exc_type=ImportError
)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OFF: dict[str, Any] = {"jitter": 0.0, "trivial": 0.0, "erase": 0.0}
OFF |= {"mixup": 0.0, "cutmix": 0.0, "mix_share": 0.0, "crop_scale": (0.1, 1.0)}
MIXED: dict[str, Any] = {"mix_share": 1.0, "mix_until": 1.0}
CASES: dict[str, dict[str, Any]] = {
    "crop and flip": {},
    "whole images": {"crop_scale": (1.0, 1.0)},
    "jitter": {"jitter": 0.4},
    "erase": {"erase": 1.0},
    "mixup": {"mixup": 1.0, **MIXED},
    "cutmix": {"cutmix": 1.0, **MIXED},
    "all": {"jitter": 0.4, "erase": 0.5, "mixup": 1.0, "cutmix": 1.0, "mix_share": 0.7},
}


@pytest.fixture
def config(params: Params, changed: Callable[..., Train]) -> Train:
    return changed(params.train, batch_size=3, **OFF)


@pytest.fixture
def split() -> Split:
    """Seven images, wide and high ones too."""
    return dataclasses.replace(toys.split(7), aspect=torch.linspace(0.5, 2, 7)).without_masks()


def both(split: Split, config: Train, size: int, **more: Any) -> list[tuple[Any, Any]]:
    """The batches by torch's kernels beside those of the one."""
    ways = (
        augment.batches(split, config, size, 0, 1, DEVICE, fused=fused, **more)
        for fused in (False, True)
    )
    return list(zip(*ways, strict=True))


@pytest.mark.parametrize(("case", "size"), [*((case, 12) for case in CASES), ("all", 40)])
def test_its_batches_are_torchs(case: str, size: int, split: Split, config: Train) -> None:
    """A side of 12 pixels shrinks a canvas of 32 by up to 2.7; 40 enlarges it."""
    found = both(split, config.model_copy(update=CASES[case]), size)
    assert len(found) == 2
    for one, other in found:
        assert other.images.shape == one.images.shape == (3, 3, size, size)
        assert other.images.dtype == one.images.dtype
        assert other.images.is_contiguous(memory_format=torch.channels_last)
        assert (other.images - one.images).abs().max() <= 1e-4  # 2/255 is 80 times as much
        assert other.targets.equal(one.targets)


def test_a_rank_mixes_its_first_image_with_the_one_before_its_shard(
    split: Split, config: Train
) -> None:
    config = config.model_copy(update={"mixup": 1.0, **MIXED})
    for one, other in both(split, config, 12, world=World(1, 2)):
        assert other.images.shape == one.images.shape == (2, 3, 12, 12)
        assert (other.images - one.images).abs().max() <= 1e-4
        assert other.targets.equal(one.targets)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_its_result_can_be_normalised_and_in_bf16(
    split: Split, dtype: torch.dtype, off: float
) -> None:
    """The second canvas as it is: a crop of all of it at its own size changes nothing.

    The interpreter cuts off what bf16 cannot hold, where a GPU rounds: twice the error.
    """
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    given = split.images[1:2], whole, torch.tensor([False]), None, torch.zeros(1, 4), None
    given = tuple(x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in given)
    mean, std = (0.5, 0.25, 0.125), (0.5, 2.0, 0.25)
    found = sampler.sampled(*given, 32, dtype, mean, std)
    pixels = split.images[1].permute(2, 0, 1) / 255
    expected = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert found.dtype == dtype
    torch.testing.assert_close(found[0].float().cpu(), expected, rtol=off, atol=1e-6)


@pytest.mark.parametrize("name", ["trivial", "masks"])
def test_what_it_cannot_do_is_refused(name: str, config: Train) -> None:
    changes = {"trivial": 1.0} if name == "trivial" else {"attention_loss": 1.0}
    batches = augment.batches(
        toys.split(7), config.model_copy(update=changes), 12, 0, 0, DEVICE, fused=True
    )
    with pytest.raises(ValueError, match="neither TrivialAugment nor masks"):
        next(batches)
