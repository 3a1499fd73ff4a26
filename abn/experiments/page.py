"""A comparison as one HTML page, to look at offline: no network, no script.

The words are in templates/compare.html, the style is that of the report.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import pandas as pd
from markupsafe import Markup

from abn.experiments import texts
from abn.experiments.comparison import Comparison
from abn.experiments.configuration import Configuration
from abn.experiments.snapshots import Snapshot, cached
from abn.project import paths, results
from abn.runtime import files
from abn.runtime.errors import DiskError
from abn.visualize import charts, report
from abn.visualize.figures import tiles_of
from abn.visualize.names import shorten
from abn.visualize.tiles import Panel

TEMPLATES = Path(__file__).with_name("templates")
MARK = '<meta name="generator" content="abn compare">'  # in the head of what we wrote
CURVES = {  # chart: its column of the history, its label, its range
    "Validation loss": ("val_loss", "loss", None),
    "Validation top-1": ("val_top1", "share correct", (0.0, 1.0)),
    "Training loss": ("train_loss", "loss", None),
    "Top-1 of the attention branch": ("val_attention_top1", "share correct", (0.0, 1.0)),
}
COLOURS = charts.BLUE, charts.ORANGE, charts.GREEN, charts.VIOLET
DASHES = "-", "--", ":"
MOST = len(COLOURS) * len(DASHES)  # configurations whose lines can be told apart
NAME = 20  # characters of a configuration's name in a legend
WIDTH = 480  # pixels of a tile, at most


class Whiskers(NamedTuple):
    """A difference with its interval on a shared scale; all in per cent of its width."""

    label: str
    text: str
    zero: float
    mean: float
    low: float
    high: float


class Pictures(NamedTuple):
    """The sheet of one training, by tile; where it has none, why."""

    label: str
    training: str
    tiles: list[Panel]
    missing: str


def write(path: Path, comparison: Comparison, metrics: Sequence[str]) -> None:
    """Write the page to `path`; DiskError where another file is there, or it cannot be written."""
    with files.writing(path):
        if path.exists() and not _is_ours(path.read_text("utf-8", errors="replace")):
            raise DiskError("not written by `abn compare`", path, "give another name")
        results.write_text(path, render(comparison, metrics))


def _is_ours(text: str) -> bool:
    """Whether `text` is a page of ours: it begins as one, and has the mark before its title."""
    return text.lstrip().startswith("<!DOCTYPE html>") and MARK in text.partition("<title>")[0]


def render(comparison: Comparison, metrics: Sequence[str]) -> str:
    """The page; the same results give the same bytes."""
    environment = report.environment(TEMPLATES)
    environment.filters |= {"value": texts.value, "change": texts.change}
    environment.filters["verdicts"] = texts.verdicts
    shown = comparison.configurations[:MOST]
    names = texts.headings(metrics)
    return environment.get_template("compare.html").render(
        mark=Markup(MARK),
        title=texts.title(comparison),
        legend=texts.LEGEND,
        stable=texts.stable(comparison),
        stable_columns=texts.STABLE_COLUMNS,
        comparison=comparison,
        names=names,
        differences=[comparison.differences(each) for each in comparison.configurations],
        colours=[charts.VARIABLES[COLOURS[i % len(COLOURS)]] for i in range(len(shown))],
        left_out=len(comparison.configurations) - len(shown),
        whiskers={heading: _whiskers(comparison, name) for name, heading in names.items()},
        recommended=[_recommended(each) for each in shown],
        gates=_gates(shown),
        charts={title: _chart(title, shown) for title in CURVES},
        pictures=[_pictures(each) for each in shown],
        same_data=len({tuple(sorted(each.trainings[0].data.items())) for each in shown}) == 1,
    )


def _whiskers(comparison: Comparison, metric: str) -> list[Whiskers]:
    """Every difference in `metric`, on a scale that holds all intervals and zero."""
    found = [
        (each.label, more)
        for each in comparison.configurations
        if (more := comparison.differences(each).get(metric))
    ]
    ends = [end for _, more in found for end in (more.mean, more.low, more.high) if end is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])

    def place(value: float | None, mean: float) -> float:
        at = mean if value is None else value
        return round(4 + 92 * (at - low) / ((high - low) or 1.0), 2)  # a dot is no point

    return [
        Whiskers(label, texts.change(d), *(place(x, d.mean) for x in (0.0, d.mean, d.low, d.high)))
        for label, d in found
    ]


def _recommended(configuration: Configuration) -> Counter[str]:
    """How many trainings recommend each map."""
    known = [each.metrics.get("explain.recommended") for each in configuration.trainings]
    return Counter(str(name) for name in known if name)


def _gates(shown: Sequence[Configuration]) -> list[dict[str, Any]]:
    """A row for each gate: its question, and of each configuration outcomes and mean value."""
    by_gate = [each.gates() for each in shown]
    rows = []
    for gate in dict.fromkeys(gate for each in by_gate for gate in each):
        cells = [each.get(gate, []) for each in by_gate]
        first = next(cell[0] for cell in cells if cell)
        outcomes = [Counter(str(row["outcome"]) for row in cell) for cell in cells]
        values = [pd.Series([row["value"] for row in cell], dtype=float).mean() for cell in cells]
        pairs = list(zip(outcomes, values, strict=True))
        rows.append({"question": first["question"], "measure": first["measure"], "cells": pairs})
    return rows


def _chart(title: str, shown: Sequence[Configuration]) -> Markup | None:
    """One line for each configuration: the mean over its seeds at each epoch that all have."""
    column, label, span = CURVES[title]
    lines, series = {}, {}
    for i, each in enumerate(shown):
        histories = [table for t in each.trainings if (table := t.table(paths.HISTORY)) is not None]
        known = [table.set_index("epoch")[column] for table in histories if column in table]
        if known:
            lines[str(i)] = pd.concat(known, axis=1).mean(axis=1, skipna=False)
            style = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS)], 2.0
            series[str(i)] = shorten(each.label, NAME), style
    table = pd.DataFrame(lines).rename_axis("epoch").reset_index()
    with warnings.catch_warnings():  # the text of an SVG is in the fonts of the browser
        warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)
        return charts.line_chart(title, table, "epoch", series, "epoch", label, y_range=span)


def _pictures(configuration: Configuration) -> Pictures:
    """The sheet of the first training that has one in DVC's cache."""
    reasons = []
    for training in configuration.trainings:
        found = _sheet(training)
        if isinstance(found, list):
            return Pictures(configuration.label, training.name, found, "")
        reasons.append(found)
    return Pictures(configuration.label, "", [], reasons[0])


def _sheet(training: Snapshot) -> list[Panel] | str:
    """The tiles of a training's sheet; else the reason why there are none."""
    md5 = training.outs.get(paths.SHEET.as_posix())
    file = cached(md5) if md5 else None
    if file is None:
        commit = training.revision[:7]
        get = f"{f'git checkout {commit} && ' if commit else ''}dvc pull {paths.SHEET}"
        return f"not in DVC's cache; where a remote has it: {get}" if md5 else "never drawn"
    picture: Any = cv2.imread(str(file))
    labels = training.table(paths.PREDICTIONS)
    if picture is None or labels is None:
        return "unreadable"
    names = sorted(labels["label"].unique())
    count = min(int(training.drawn.get("visualize.classes", "0")), len(names))
    pictures = 3 if training.params.get("attention") == "look" else 2
    tiles = tiles_of(picture[..., ::-1], count, pictures) if count else []
    return list(_panels(tiles, training.name)) or "drawn in another layout"


def _panels(tiles: Sequence[Any], name: str) -> Iterator[Panel]:
    for number, tile in enumerate(tiles, 1):
        scale = min(1.0, WIDTH / tile.shape[1])
        size = round(tile.shape[1] * scale), round(tile.shape[0] * scale)
        small = cv2.resize(tile, size, interpolation=cv2.INTER_AREA)
        yield Panel(small, "", f"Image {number} and where {name} looked")
