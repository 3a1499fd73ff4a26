"""Accuracy, losses, calibration and confusion of a split's predictions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor

from abn.predict import Predictions, headline, top1

BINS = 15  # of confidence, equally wide (Guo et al., ICML 2017)
TOP = 5


def scores(predictions: Predictions, mirrored: Predictions) -> dict[str, float]:
    """The metrics of a split; `mirrored` are those of the mirrored images.

    `macro_f1` and `balanced_accuracy` are the means of the columns f1 and recall of `per_class`.
    `majority_share` is the top-1 of always naming the split's most frequent class. With five
    classes or fewer there is no `top5`: it would be 1 by definition.
    """
    labels = predictions.labels
    probabilities = predictions.logits.softmax(1)
    both_heads = probabilities + predictions.attention_logits.softmax(1)
    both_views = probabilities + mirrored.logits.softmax(1)
    all_four = both_heads + mirrored.logits.softmax(1) + mirrored.attention_logits.softmax(1)
    by_class = per_class(predictions, range(probabilities.shape[1]))
    top5 = {"top5": _top5(probabilities, labels)} if len(by_class) > TOP else {}
    return {
        **headline(predictions),
        **top5,
        "ensemble_top1": top1(both_heads, labels),
        "flip_top1": top1(both_views, labels),
        "flip_ensemble_top1": top1(all_four, labels),
        "ece": expected_calibration_error(calibration(predictions)),
        "macro_f1": float(by_class["f1"].mean()),
        "balanced_accuracy": float(by_class["recall"].mean()),
        "majority_share": int(labels.bincount().max()) / len(labels),
    }


def confusion(predictions: Predictions, classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per image: `actual` and `predicted` class names, for a confusion plot."""
    names = np.array(classes)
    predicted = predictions.logits.argmax(1)
    return pd.DataFrame({"actual": names[predictions.labels], "predicted": names[predicted]})


def per_image(
    predictions: Predictions, classes: tuple[str, ...], files: tuple[str, ...]
) -> pd.DataFrame:
    """One row per image: its file, label, and what each branch says of it with what confidence."""
    names = np.array(classes)
    confidence, predicted = predictions.logits.double().softmax(1).max(1)
    branch_confidence, branch = predictions.attention_logits.double().softmax(1).max(1)
    return pd.DataFrame(
        {
            "file": files,
            "label": names[predictions.labels],
            "prediction": names[predicted],
            "confidence": confidence,
            "attention_prediction": names[branch],
            "attention_confidence": branch_confidence,
        }
    )


def per_class(predictions: Predictions, classes: Sequence[object]) -> pd.DataFrame:
    """One row per class: precision, recall, f1 and the number of images.

    The three are 0 for a class that has images and is never predicted, and NaN, "not measured", for
    a class without images.
    """
    columns = precision_recall_fscore_support(
        predictions.labels,
        predictions.logits.argmax(1),
        labels=np.arange(len(classes)),
        zero_division=0.0,
    )
    names = ("precision", "recall", "f1", "images")
    table = pd.DataFrame({"class": classes} | dict(zip(names, columns, strict=True)))
    table.loc[table["images"] == 0, ["precision", "recall", "f1"]] = np.nan
    return table


def calibration(predictions: Predictions) -> pd.DataFrame:
    """One row per bin of confidence that has images: mean confidence, accuracy and their number."""
    confidence, predicted = predictions.logits.double().softmax(1).max(1)
    hits = predicted == predictions.labels
    table = pd.DataFrame({"confidence": confidence, "accuracy": hits.double()})
    edges = np.linspace(0, 1, BINS + 1).tolist()
    binned = table.groupby(pd.cut(table["confidence"], edges), observed=True)
    return binned.mean().assign(images=binned.size()).reset_index(drop=True)


def expected_calibration_error(table: pd.DataFrame) -> float:
    """ECE: the mean distance between accuracy and confidence, from the table of `calibration`."""
    gap = (table["accuracy"] - table["confidence"]).abs()
    return float(np.average(gap, weights=table["images"]))


def _top5(scores: Tensor, labels: Tensor) -> float:
    """The share of the rows of `scores` [N, K] whose label is among the best five."""
    best = scores.topk(TOP).indices
    return float((best == labels[:, None]).any(1).double().mean())
