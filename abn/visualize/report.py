"""The report: what was trained, how well it does and whether its map explains it, on one page.

Values and tables in, HTML out: one file that needs no network, and no script. The words are in
templates/report.html; what is missing from a table is shown there as not measured.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from abn.project.results import Results, Table
from abn.visualize import cards, panels, scoreboard
from abn.visualize.cards import Card, ramp
from abn.visualize.charts import Chart, chart
from abn.visualize.origin import Origin
from abn.visualize.panels import Exhibit
from abn.visualize.scoreboard import records

TEMPLATES = Path(__file__).with_name("templates")
WHOLE_MATRIX = 20  # classes; of more only the pairs confused most are listed
PAIRS = 15
FILTERS = ("number", "percent", "plain")

CURVES = ("attention", "att_cam", "gradcam", "random", "centre", "oracle")
INTERVENTIONS = {
    "none": "the map as it is",
    "zero": "0 everywhere",
    "mean": "its mean everywhere",
    "shuffled": "its cells shuffled",
    "inverted": "inverted: high where it was low",
    "another": "another image's map",
    "att_cam": "Att-CAM in its place",
    "oracle": "the true object in its place",
}


def render(
    results: Results, origin: Origin, exhibits: Sequence[Exhibit], classes: int, alpha: float
) -> str:
    """The page; the same values give the same bytes.

    Of the `exhibits` those of the first `classes` classes are shown, and all errors; `alpha` is the
    overlays' strength.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {name: getattr(scoreboard, name) for name in FILTERS}
    shown = [cards.card(exhibit, alpha) for exhibit in exhibits]
    by_class = _by_class(shown)
    return environment.get_template("report.html").render(
        results=results,
        origin=origin,
        gates=records(results.gates),
        charts=_charts(results),
        confusion=_confusion(results.confusion, origin.classes),
        per_class=records(results.per_class),
        boards=scoreboard.boards(results.maps),
        interventions=records(results.interventions),
        intervention_names=INTERVENTIONS,
        by_class=by_class[:classes],
        unseen=max(0, len(by_class) - classes),
        errors=[card for card in shown if card.exhibit.role == "error"],
        ramps={name: ramp(name) for name in (panels.UNIT, panels.SIGNED)},
    )


def _charts(results: Results) -> dict[str, Chart]:
    history, curves = results.history, results.curves
    loss = {"train_loss": ("training", "s1"), "val_loss": ("validation", "s0")}
    top1 = {
        "train_top1": ("training", "s1"),
        "val_top1": ("validation", "s0"),
        "val_attention_top1": ("validation, attention branch", "s2"),
    }
    names = scoreboard.MAPS | scoreboard.CONTROLS
    insertion, deletion = (
        {f"{name}_{kind}": (names[name], f"m-{name}") for name in CURVES}
        for kind in ("insertion", "deletion")
    )
    unit = (0.0, 1.0)
    share = "share of the cells, the map's highest first"
    return {
        "loss": chart("Loss", history, "epoch", loss, "epoch"),
        "top1": chart("Top-1 accuracy", history, "epoch", top1, "epoch", y_range=unit),
        "calibration": chart(
            "Calibration",
            results.calibration,
            "confidence",
            {"accuracy": ("images, the larger the dot the more", "s0")},
            "confidence",
            unit,
            unit,
            "images",
            "as confident as right",
        ),
        "insertion": chart("Insertion", curves, "fraction", insertion, share, unit, unit),
        "deletion": chart("Deletion", curves, "fraction", deletion, share, unit, unit),
    }


def _confusion(table: Table, classes: Sequence[str]) -> dict[str, Any]:
    """A matrix [actual][predicted] of counts, or the pairs that are confused most."""
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


def _by_class(shown: Sequence[Card]) -> list[tuple[str, list[Card]]]:
    """The cards that are no errors, by their true class."""
    groups: dict[str, list[Card]] = {}
    for card in shown:
        if card.exhibit.role != "error":
            groups.setdefault(card.exhibit.tile.truth, []).append(card)
    return list(groups.items())
