"""Images are selected by a rule, and samples are what the network computes of them."""

import dataclasses

import torch
from torch import Tensor

from abn.data.loader import CenterCrop
from abn.explain.case import BATCH, Case, balanced, batched, collect
from abn.predict import predict
from abn.runtime.rng import generator
from tests import toys


def test_images_are_drawn_evenly_over_the_classes() -> None:
    labels = torch.arange(400) % 4
    for count, share in ((40, [10] * 4), (42, [10, 10, 11, 11])):
        selected = balanced(labels, count, generator(0))
        assert len(selected.unique()) == count
        assert sorted(labels[selected].bincount().tolist()) == share
        assert selected.equal(selected.sort().values)


def test_a_rare_class_gives_all_it_has() -> None:
    labels = torch.tensor([0] * 50 + [2] * 3 + [3] * 50)
    selected = balanced(labels, 23, generator(0))
    assert labels[selected].bincount().tolist() == [10, 0, 3, 10]


def test_all_images_are_selected_when_there_are_too_few() -> None:
    assert balanced(torch.arange(10) % 3, 99, generator(0)).tolist() == list(range(10))


def test_samples_hold_the_predictions_whatever_the_batch_size() -> None:
    split, model = toys.split(120), toys.network().eval()
    index = torch.arange(0, 120, 2)  # more than one batch
    samples = collect(model, split, index, CenterCrop(16, 24))
    predictions = predict(model, split.take(index), CenterCrop(16, 24), 60, toys.CPU)
    torch.testing.assert_close(samples.trace.logits, predictions.logits)
    torch.testing.assert_close(
        samples.trace.output().attention_logits, predictions.attention_logits
    )
    torch.testing.assert_close(samples.attention, predictions.attention)
    assert samples.predicted.equal(predictions.logits.argmax(1))
    assert samples.labels.equal(split.labels[index]) and samples.images.shape == (60, 3, 16, 16)
    assert samples.index.equal(index)


def test_masks_are_cropped_as_the_images_are() -> None:
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


def test_an_explainer_in_batches_gives_the_same_maps():
    sizes = []

    def explain(images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        sizes.append(len(images))
        return {"map": images[:, 0, :4, :4] * classes.view(-1, 1, 1)}

    images, classes = (
        torch.rand(2 * BATCH + 1, 3, 8, 8, generator=generator("photos")),
        torch.arange(2 * BATCH + 1),
    )
    maps = batched(explain, classes)(images)
    assert sizes == [BATCH, BATCH, 1]
    assert torch.equal(maps["map"], explain(images, classes)["map"])


def test_scores_of_some_images_are_nan_for_the_others(case: Case) -> None:
    values = {"flip": {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}}
    scores = case.scores(values, torch.tensor([7, 3]))
    assert list(scores) == ["a", "b"] and scores["b"]["flip"].dtype == torch.float64
    assert scores["b"]["flip"][[7, 3]].tolist() == [3, 4]
    assert scores["b"]["flip"].isnan().sum() == 38


def test_a_map_is_compared_with_the_controls_of_its_own_grid(case: Case) -> None:
    assert case.control("attention", "centre") == "centre"
    assert case.control("gradcam", "centre") == "centre_2x2"
    assert case.control("gradcam_pp", "oracle") == "oracle_2x2"
    assert case.control("gradcam", "random") is None
    assert case.control("rise", "sobel") == "sobel"  # on the attention's grid, as it is made
    assert case.control("oracle_2x2", "sobel") == "sobel_2x2"


def test_what_several_scores_need_is_computed_once_per_case(case: Case) -> None:
    calls = []

    def seed(case: Case) -> int:
        calls.append(case.seed)
        return case.seed

    first, other = dataclasses.replace(case, seed=1), dataclasses.replace(case, seed=2)
    assert [each.once(seed) for each in (first, first, other)] == [1, 1, 2]
    assert calls == [1, 2]
