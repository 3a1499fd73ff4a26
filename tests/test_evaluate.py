"""Metrics against answers worked out by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from abn import evaluate
from abn.predict import Predictions, headline

NAMES = ("red", "blue", "green")
# Predicted: red (right), blue (wrong), green (right), red (wrong, the truth comes last).
PERCEPTION = [[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.28, 0.62], [0.45, 0.35, 0.2]]
ATTENTION = [[0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.5, 0.1, 0.4], [0.8, 0.1, 0.1]]
LABELS = [0, 0, 2, 2]


def said(
    perception: list[list[float]],
    labels: list[int],
    attention: list[list[float]] | None = None,
) -> Predictions:
    """Predictions with these probabilities."""
    logits = torch.tensor(perception, dtype=torch.float64).log() + 3  # a shift says nothing
    other = torch.tensor(attention or perception, dtype=torch.float64).log()
    return Predictions(logits, other, torch.full((len(labels), 2, 2), 0.5), torch.tensor(labels))


def sure(label: int, classes: int) -> list[float]:
    return [0.9 if i == label else 0.1 / (classes - 1) for i in range(classes)]


def descending(classes: int) -> list[float]:
    """Class 0 before class 1 before class 2 and so on."""
    weights: Tensor = torch.arange(classes, 0, -1) / (classes * (classes + 1) / 2)
    return weights.tolist()


@pytest.fixture
def predictions() -> Predictions:
    return said(PERCEPTION, LABELS, ATTENTION)


def test_the_scores_worked_out_by_hand(predictions: Predictions) -> None:
    mirrored = said([PERCEPTION[0], [0.6, 0.3, 0.1], [0.9, 0.05, 0.05], [0.1, 0.1, 0.8]], LABELS)
    found = evaluate.scores(predictions, mirrored)
    assert found.items() >= headline(predictions).items()
    assert found["ensemble_top1"] == 0.75  # the attention branch puts the second right
    assert found["flip_top1"] == 0.75  # so does the mirror, and the fourth, but spoils the third
    assert found["ece"] == pytest.approx((0.3 + 0.5 + 0.38 + 0.45) / 4)
    assert found["macro_f1"] == pytest.approx((1 / 2 + 2 / 3) / 2)  # no image is blue
    assert found["balanced_accuracy"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert found["majority_share"] == 0.5


@pytest.mark.parametrize("label", range(10))
def test_top5_is_among_the_first_five_of_ten(label: int) -> None:
    found = evaluate.scores(*[said([descending(10)], [label])] * 2)
    assert found["top5"] == (label < 5)


@pytest.mark.parametrize(("classes", "top5"), [(2, None), (5, None), (6, 5 / 6), (10, 5 / 10)])
def test_top5_is_left_out_where_every_class_is_among_the_best_five(
    classes: int, top5: float | None
) -> None:
    labels = list(range(classes))
    found = evaluate.scores(*[said([descending(classes)] * classes, labels)] * 2)
    assert found.get("top5") == (top5 and pytest.approx(top5))


def test_a_split_of_one_class_is_scored() -> None:
    found = evaluate.scores(*[said([sure(1, 3)] * 4, [1] * 4)] * 2)
    assert found["top1"] == found["balanced_accuracy"] == found["macro_f1"] == 1
    assert found["majority_share"] == 1


def test_of_unequal_classes_the_majority_is_what_a_network_has_to_beat() -> None:
    """Nine dogs and a cat, and a network that always says dog."""
    found = evaluate.scores(*[said([sure(0, 2)] * 10, [0] * 9 + [1])] * 2)
    assert found["top1"] == found["majority_share"] == 0.9
    assert found["balanced_accuracy"] == 0.5
    assert found["macro_f1"] == pytest.approx((2 * 0.9 / 1.9 + 0) / 2)


@pytest.mark.parametrize("labels", [[0, 0, 2, 2], [0, 1, 2, 2], [2, 2, 2, 2]])
def test_macro_f1_and_balanced_accuracy_are_the_means_of_the_table(labels: list[int]) -> None:
    given = said(PERCEPTION, labels)
    table, found = evaluate.per_class(given, NAMES), evaluate.scores(given, given)
    assert found["macro_f1"] == pytest.approx(table["f1"].mean())
    assert found["balanced_accuracy"] == pytest.approx(table["recall"].mean())
    assert table["f1"].isna().tolist() == [count == 0 for count in table["images"]]


def test_calibration_gathers_images_of_like_confidence() -> None:
    rows = [[0.91, 0.09], [0.08, 0.92], [0.6, 0.4], [0.99, 0.01]]
    table = evaluate.calibration(said(rows, [0, 0, 0, 0]))
    assert list(table.columns) == ["confidence", "accuracy", "images"]
    assert table["confidence"].tolist() == pytest.approx([0.6, 0.915, 0.99])
    assert table["accuracy"].tolist() == [1, 0.5, 1]
    assert table["images"].tolist() == [1, 2, 1]
    expected = (0.4 + 2 * 0.415 + 0.01) / 4
    assert evaluate.expected_calibration_error(table) == pytest.approx(expected)


def test_full_confidence_has_its_bin() -> None:
    certain = said([[1.0, 0.0], [1.0, 0.0]], [0, 1])
    table = evaluate.calibration(certain)
    assert table.to_dict("records") == [{"confidence": 1.0, "accuracy": 0.5, "images": 2}]


def test_confusion_has_a_row_of_names_for_each_image(predictions: Predictions) -> None:
    table = evaluate.confusion(predictions, NAMES)
    assert list(table.columns) == ["actual", "predicted"]
    assert table["actual"].tolist() == ["red", "red", "green", "green"]
    assert table["predicted"].tolist() == ["red", "blue", "green", "red"]


def test_every_image_has_its_row_with_its_file(predictions: Predictions) -> None:
    table = evaluate.per_image(predictions, NAMES, ("a.png", "b.png", "c.png", "d.png"))
    assert table.round(6).to_dict("list") == {
        "file": ["a.png", "b.png", "c.png", "d.png"],
        "label": ["red", "red", "green", "green"],
        "prediction": ["red", "blue", "green", "red"],
        "confidence": [0.7, 0.5, 0.62, 0.45],
        "attention_prediction": ["red", "red", "red", "red"],
        "attention_confidence": [0.6, 0.8, 0.5, 0.8],
    }


def test_every_class_has_its_row_and_one_without_images_has_no_scores(
    predictions: Predictions,
) -> None:
    table = evaluate.per_class(predictions, NAMES)
    assert list(table.columns) == ["class", "precision", "recall", "f1", "images"]
    assert table["class"].tolist() == list(NAMES)
    assert table["precision"].tolist() == pytest.approx([0.5, np.nan, 1], nan_ok=True)
    assert table["recall"].tolist() == pytest.approx([0.5, np.nan, 0.5], nan_ok=True)
    assert table["f1"].tolist() == pytest.approx([0.5, np.nan, 2 / 3], nan_ok=True)
    assert table["images"].tolist() == [2, 0, 2]
