"""The report: what was trained, how well it classifies, and whether its map explains it.

Values and tables in, HTML out: one page that needs no network and no script. The words are in
templates/report.html; a value that is missing from a table is shown as "not measured".
"""

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.colors import to_hex

from abn.project.results import Results, Table
from abn.visualize import answer, overlay, tables, tiles
from abn.visualize.charts import AXIS, FIRST, REFERENCE, SECOND, THIRD, VIOLET, Style, line_chart
from abn.visualize.names import apart, path, shown
from abn.visualize.provenance import Provenance
from abn.visualize.tables import records
from abn.visualize.tiles import GalleryItem, Panel

TEMPLATES = Path(__file__).with_name("templates")
WHOLE_MATRIX = 20  # classes; with more, only the pairs confused most are listed
PAIRS = 15
QUALITY = 85  # of the JPEGs

CURVES: dict[str, Style] = {
    "attention": (FIRST[0], "-", 3.5),
    "att_cam": SECOND,
    "gradcam": THIRD,
    "random": REFERENCE,
    "centre": (AXIS, "--", 2.0),
    "oracle": (VIOLET, "--", 2.0),
}
INTERVENTIONS = {
    "none": "itself (no change)",
    "zero": "0 everywhere",
    "mean": "its mean everywhere",
    "shuffled": "its cells, shuffled",
    "inverted": "its inverse: high where it was low",
    "another": "the map of another image",
    "att_cam": "Att-CAM",
    "other_class": "the map of the second most likely class",
    "oracle": "the true object",
}


def render(
    results: Results,
    provenance: Provenance,
    items: Sequence[GalleryItem],
    classes: int,
    style: overlay.Style,
    drawn: str,
) -> str:
    """The page; the same values give the same bytes.

    It shows the `items` of the first `classes` classes, and all errors, with the map `drawn` in
    overlays of that `style`.
    """
    page = environment()
    page.filters["rows"] = lambda item: tiles.rows(item, style)
    by_class, gates = _by_class(items), records(results.gates)
    by_map = answer.by_map(records(results.map_gates))
    errors = [item for item in items if item.role == "error"]
    return page.get_template("report.html").render(
        results=results,
        provenance=provenance,
        first=answer.first_sentence(results.explain, gates),
        advice=answer.advice(results.explain, by_map, drawn),
        gates=gates,
        by_map=by_map,
        drawn=drawn,
        style=style,
        charts=_charts(results),
        confusion=_confusion(results.confusion, provenance.classes),
        per_class=records(results.per_class),
        tables=tables.score_tables(results.maps),
        interventions=records(results.interventions),
        intervention_names=INTERVENTIONS,
        by_class=by_class[:classes],
        more_classes=max(0, len(by_class) - classes),
        scale=items[0].tile.heat.scale if items else (0, 1),
        errors=errors,
        typical=[tiles.map_panels(item.tile, style)[:2] for item in items if item.role == "median"],
        misled=[item.what_if for item in errors if item.what_if],
        ramps={name: ramp(name) for name in (tiles.UNIT, tiles.SIGNED)},
    )


def environment(*folders: Path) -> Environment:
    """Where pages find templates, first in `folders`, and the filters of templates/parts.html."""
    found = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    for name in ("number", "percent", "plain"):
        found.filters[name] = getattr(tables, name)
    found.filters |= {"data_uri": data_uri, "map_name": tiles.map_name, "apart": apart}
    found.filters |= {"path": path, "shown": shown, "rows": tiles.rows}
    return found


def data_uri(panel: Panel) -> str:
    """A panel's picture as a data URI: cells of a map as PNG without loss, images as JPEG."""
    kind, options = ("png", []) if panel.cells else ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    _, encoded = cv2.imencode(f".{kind}", panel.pixels[..., ::-1], options)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def ramp(palette: str) -> str:
    """`palette` as a CSS gradient, lowest colour left."""
    stops = ", ".join(to_hex(colormaps[palette](i / 8)) for i in range(9))
    return f"linear-gradient(to right, {stops})"


def _charts(results: Results) -> dict[str, Markup | None]:
    """The charts by title; None for what was not measured."""
    history, curves, unit = results.history, results.curves, (0.0, 1.0)
    loss = {"train_loss": ("training", SECOND), "val_loss": ("validation", FIRST)}
    top1 = {
        "train_top1": ("training", SECOND),
        "val_top1": ("validation", FIRST),
        "val_attention_top1": ("validation, attention branch", THIRD),
    }
    charts = {
        "Loss": line_chart("Loss", history, "epoch", loss, "epoch", "loss"),
        "Top-1 accuracy": line_chart(
            "Top-1 accuracy", history, "epoch", top1, "epoch", "share correct", y_range=unit
        ),
        "Calibration": line_chart(
            "Calibration",
            results.calibration,
            "confidence",
            {"accuracy": ("validation (area: images)", FIRST)},
            "confidence",
            "share correct",
            unit,
            unit,
            sizes="images",
            diagonal="perfect calibration",
        ),
    }
    names = tables.MAPS | tables.CONTROLS
    for title in ("Insertion", "Deletion"):
        series = {f"{m}_{title.lower()}": (names[m], style) for m, style in CURVES.items()}
        labels = "share of the cells, from the map's highest value down", "probability of the class"
        charts[title] = line_chart(title, curves, "fraction", series, *labels, unit, unit)
    return charts


def _confusion(table: Table, classes: Sequence[str]) -> dict[str, Any]:
    """A matrix [actual][predicted] of counts, or the pairs confused most."""
    counts = Counter(zip(table["actual"], table["predicted"], strict=True))
    totals = Counter(table["actual"])
    if len(classes) <= WHOLE_MATRIX:
        rows = [
            (a, [(p, counts[a, p], counts[a, p] / max(1, totals[a])) for p in classes])
            for a in classes
        ]
        return {"rows": rows, "pairs": []}
    wrong = [(a, p, n, n / totals[a]) for (a, p), n in counts.items() if a != p]
    return {"rows": [], "pairs": sorted(wrong, key=lambda row: (-row[2], row[0], row[1]))[:PAIRS]}


def _by_class(items: Sequence[GalleryItem]) -> list[tuple[str, list[GalleryItem]]]:
    """The items that are not errors, by their true class."""
    groups: dict[str, list[GalleryItem]] = {}
    for item in items:
        if item.role != "error":
            groups.setdefault(item.tile.truth, []).append(item)
    return list(groups.items())
