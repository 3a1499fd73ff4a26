"""Accuracy, losses, calibration and confusion of a split's predictions."""

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score, precision_recall_fscore_support
from torch import Tensor

from abn.predict import Predictions, headline, top1

BINS = 15  # of confidence, equally wide (Guo et al., ICML 2017)


def scores(predictions: Predictions, mirrored: Predictions) -> dict[str, float]:
    """The metrics of a split; `mirrored` are those of the mirrored images."""
    labels = predictions.labels
    probabilities = predictions.logits.softmax(1)
    both_heads = probabilities + predictions.attention_logits.softmax(1)
    both_views = probabilities + mirrored.logits.softmax(1)
    all_four = both_heads + mirrored.logits.softmax(1) + mirrored.attention_logits.softmax(1)
    return headline(predictions) | {
        "top5": _top5(probabilities, labels),
        "ensemble_top1": top1(both_heads, labels),
        "flip_top1": top1(both_views, labels),
        "flip_ensemble_top1": top1(all_four, labels),
        "ece": expected_calibration_error(calibration(predictions)),
        "macro_f1": float(f1_score(labels, probabilities.argmax(1), average="macro")),
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


def per_class(predictions: Predictions, classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per class: precision, recall, f1 and the number of images."""
    columns = precision_recall_fscore_support(
        predictions.labels,
        predictions.logits.argmax(1),
        labels=np.arange(len(classes)),
        zero_division=0.0,
    )
    names = ("precision", "recall", "f1", "images")
    return pd.DataFrame({"class": classes} | dict(zip(names, columns, strict=True)))


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
    """The share in the best five; with five classes or fewer, in all but the worst."""
    best = scores.topk(min(5, scores.shape[1] - 1)).indices
    return float((best == labels[:, None]).any(1).double().mean())
