"""Pictures with a patch that misleads, and which network follows it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from abn.config.params import Params
from abn.datasets import shapes
from benchmarks import patches

INDEX = torch.tensor([3, 7, 12, 25])


def test_a_patch_recoloured_is_that_of_the_class_asked_for(
    params: Params, changed: Callable[..., Any]
) -> None:
    looks = changed(params.data.shapes, shortcut=0.5)
    config = changed(params.data, size=32, seed=5)
    classes = torch.tensor([0, 1, 2, 3])
    canvases = patches.recoloured(looks, config, INDEX, classes)
    expected = [
        shapes.render(5, "val", i, 32, looks, colour=c).image for c, i in enumerate(INDEX.tolist())
    ]
    assert np.array_equal(canvases.numpy(), np.stack(expected))


def test_a_conflict_is_each_other_class_equally_often() -> None:
    index = torch.arange(180)
    away = (patches.conflicting(index) - index) % 10
    assert torch.bincount(away, minlength=10).tolist() == [0] + [20] * 9
    assert torch.bincount(patches.conflicting(index)).tolist() == [18] * 10


def test_reliance_is_how_often_a_conflicting_patch_is_believed() -> None:
    labels, shown = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 2])
    aligned = torch.eye(3)[labels]
    conflict = torch.eye(3)[torch.tensor([1, 2, 2, 1])]  # believed, believed, resisted, neither
    removed = torch.eye(3)[torch.tensor([0, 1, 2, 2])]
    found = patches.reliance(aligned, conflict, removed, labels, shown)
    assert found == {
        "accuracy_aligned": 1.0,
        "accuracy_conflict": 0.25,
        "accuracy_removed": 0.75,
        "reliance": 0.5,
    }
