"""What is explained is drawn by a rule, and is what the network saw and said."""

import dataclasses

import torch
from torch import Tensor

from abn.data.loader import CenterCrop
from abn.explain.case import BATCH, balanced, batched, collect, select
from abn.predict import predict
from abn.runtime.rng import generator
from tests import toys


def test_images_are_drawn_evenly_over_the_classes() -> None:
    labels = torch.arange(400) % 4
    for count, share in ((40, [10] * 4), (42, [10, 10, 11, 11])):
        chosen = balanced(labels, count, generator(0))
        assert len(chosen.unique()) == count
        assert sorted(labels[chosen].bincount().tolist()) == share
        assert chosen.equal(chosen.sort().values)


def test_a_rare_class_gives_all_it_has() -> None:
    labels = torch.tensor([0] * 50 + [2] * 3 + [3] * 50)
    chosen = balanced(labels, 23, generator(0))
    assert labels[chosen].bincount().tolist() == [10, 0, 3, 10]


def test_all_are_drawn_where_there_are_no_more() -> None:
    assert balanced(torch.arange(10) % 3, 99, generator(0)).tolist() == list(range(10))


def test_other_draws_select_other_images() -> None:
    labels = torch.arange(400) % 4
    first, again, other = (balanced(labels, 40, generator(key)) for key in (0, 0, 1))
    assert first.equal(again) and not first.equal(other)


def test_the_same_seed_selects_the_same_images() -> None:
    split = toys.split()
    assert select(split, 8, seed=1).equal(select(split, 8, seed=1))
    assert not select(split, 8, seed=1).equal(select(split, 8, seed=2))


def test_samples_are_what_the_network_says_of_each_image_whatever_the_batch() -> None:
    split, model = toys.split(120), toys.network().eval()
    index = torch.arange(0, 120, 2)  # more than one batch
    samples = collect(model, split, index, CenterCrop(16, 24))
    said = predict(model, split.take(index), CenterCrop(16, 24), 60, toys.CPU)
    torch.testing.assert_close(samples.trace.logits, said.logits)
    torch.testing.assert_close(samples.trace.output().attention_logits, said.attention_logits)
    torch.testing.assert_close(samples.attention, said.attention)
    assert samples.predicted.equal(said.logits.argmax(1))
    assert samples.labels.equal(split.labels[index]) and samples.images.shape == (60, 3, 16, 16)
    assert samples.index.equal(index)


def test_masks_are_seen_through_the_same_view_as_the_images() -> None:
    split = toys.split(4)
    assert split.masks is not None
    split.masks[:, 15, :] = 3
    split = dataclasses.replace(split, images=split.masks[..., None].expand(-1, -1, -1, 3) * 80)
    samples = collect(toys.network().eval(), split, torch.arange(4), CenterCrop(16, 32))
    objects, masks = samples.objects, samples.masks
    assert objects is not None and masks is not None and masks.dtype == torch.uint8
    assert objects.sum((1, 2)).tolist() == [56, 56, 64, 64]  # a quarter, less the row cut out
    assert (masks[:, 7] == 3).all() and not (masks[:, 8] == 3).any()
    whole = collect(toys.network().eval(), split, torch.arange(4), toys.WHOLE)
    assert whole.masks is not None and whole.masks.equal(split.masks)


def test_without_masks_no_object_is_known() -> None:
    split = dataclasses.replace(toys.split(4), masks=None)
    samples = collect(toys.network().eval(), split, torch.arange(4), toys.WHOLE)
    assert samples.masks is None and samples.objects is None


def test_some_rows_of_samples_are_samples() -> None:
    samples = collect(toys.network().eval(), toys.split(8), torch.arange(8), toys.WHOLE)
    few = samples.take(torch.tensor([1, 6]))
    assert few.index.tolist() == [1, 6] and few.predicted.equal(samples.predicted[[1, 6]])
    assert few.attention.equal(samples.attention[[1, 6]])
    assert few.trace.features.shape[0] == few.trace.class_maps.shape[0] == len(few.images) == 2
    assert few.objects is not None and len(few.objects) == 2


def test_an_explainer_in_batches_gives_the_same_with_the_classes_it_was_given():
    seen = []

    def explain(images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        seen.append(len(images))
        return {"map": images[:, 0, :4, :4] * classes.view(-1, 1, 1)}

    images, classes = (
        torch.rand(2 * BATCH + 1, 3, 8, 8, generator=generator("photos")),
        torch.arange(2 * BATCH + 1),
    )
    maps = batched(explain, classes)(images)
    assert seen == [BATCH, BATCH, 1]
    assert torch.equal(maps["map"], explain(images, classes)["map"])
