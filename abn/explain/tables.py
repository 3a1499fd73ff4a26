"""The results as tables and headline numbers: metrics/explain.json and plots/explain_*.csv."""

import math
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from abn.explain import answers, chance, interventions, stability, verdict
from abn.explain.case import FLAT, Case, Scores
from abn.explain.counterfactuals import part_importance
from abn.explain.faithfulness import BASELINES, curves, gain
from abn.explain.statistics import LOWER, NEUTRAL, SHARES, beats, estimate
from abn.explain.verdict import Gate

HEADLINE = {  # of the attention map: its scores, and the maps whose score is given with them
    "srg": ("random", "centre", "sobel", "oracle", "att_cam", "gradcam"),
    "srg_colour": (),
    "sufficient_area": ("centre", "sobel", "oracle"),
    "sufficient_area_hidden": ("centre", "sobel", "oracle"),
    "removable_area": (),
    "auroc": ("random", "centre", "oracle", "att_cam"),
    "rank_accuracy": (),
    "pointing": (),
    "lift": (),
    "iou": (),
    "agreement": ("oracle",),
    "sensitivity": (),
    "flip": (),
    "randomised_attention": (),
    "stability": (),
}
Headline = dict[str, float | str]
Row = dict[str, float | str | None]


def headline(
    case: Case, scores: Scores, table: pd.DataFrame, gates: Mapping[str, list[Gate]]
) -> Headline:
    """The verdict, the attention map's main scores, its gain, and what happens without it.

    `table` is that of `maps_table`, `gates` are each map's. `undecided` names the attention's gates
    that more images could decide, `recommended` the map that may be shown; each may be "none".
    """
    ours = gates["attention"]
    return {
        "verdict": verdict.verdict(ours),
        "undecided": ", ".join(verdict.undecided(ours)) or answers.NONE,
        "recommended": answers.recommended(gates, scores),
        **{f"gate_{gate.gate}": gate.outcome for gate in ours},
        "images": len(case.samples.images),
        **_main_scores(case, table),
        **_attention(case),
        **_without_attention(case),
        **_means({f"importance_{k}": v for k, v in case.once(part_importance).items()}),
    }


def _main_scores(case: Case, table: pd.DataFrame) -> Headline:
    """The scores of HEADLINE, and the interval, wins and baselines of SRG."""
    rows = table.set_index(["map", "score"]).to_dict("index")
    numbers: Headline = {}
    for score, others in HEADLINE.items():
        for name in ("attention", *others):
            if (name, score) in rows:
                key = score if name == "attention" else f"{score}_{name}"
                numbers[key] = rows[name, score]["mean"]
    for key in ("low", "high", "beats_random", "beats_centre"):
        if not pd.isna(rows["attention", "srg"][key]):
            numbers[f"srg_{key}"] = rows["attention", "srg"][key]
    for ending in BASELINES:
        pair = case.once(curves)["attention", ending]
        numbers[f"baseline_confidence{ending}"] = float(pair.insertion.mean(0)[0])
    return numbers


def _attention(case: Case) -> Headline:
    """The map's gain and the share of flat maps; how alike the branches' predictions are."""
    values, output = gain(case.samples.attention, case.model.looks), case.samples.trace.output()
    values["ratio"] = answers.gain_ratio(case)
    same, distance = interventions.branch_agreement(output.attention_logits, output.logits)
    return {
        **{f"gain_{key}": float(value.mean()) for key, value in values.items()},
        "flat_share": float((values["ratio"] < FLAT).double().mean()),
        "branch_agreement": float(same.double().mean()),
        "branch_divergence": float(distance.mean()),
    }


def _without_attention(case: Case) -> Headline:
    """Decisions changed, and accuracy, under the interventions that remove the map."""
    numbers: Headline = {}
    effects = case.once(interventions.effects)
    for name in ("zero", "shuffled", "another"):
        numbers[f"{name}_flips"] = float(effects[name].flips.mean())
        numbers[f"{name}_probability"] = float(effects[name].probability.mean())
        numbers[f"{name}_top1"] = float(effects[name].correct.mean())
    return numbers


def _means(values: dict[str, Tensor]) -> dict[str, float]:
    """The means of the values that are not NaN, leaving out what is NaN everywhere."""
    means = {name: float(value.nanmean()) for name, value in values.items()}
    return {name: mean for name, mean in means.items() if not math.isnan(mean)}


def maps_table(case: Case, scores: Scores) -> pd.DataFrame:
    """One row per map and score in `scores[map][score]`; a NaN is an image not scored.

    map, score, mean, low, high, images (the independent units: mosaics for the scores on these);
    beats_random and beats_centre, the paired shares of wins; of_oracle, the mean divided by the
    oracle's on the same images, where that means something: a reference, which a map may exceed;
    chance, what a map that knows nothing has. The controls are those on the map's own grid.
    """
    rows = [
        _row(case, scores, name, score)
        for name, values in scores.items()
        for score in values
        if not values[score].isnan().all()
    ]
    return pd.DataFrame(rows)


def _row(case: Case, scores: Scores, name: str, score: str) -> Row:
    values = torch.atleast_2d(scores[name][score]).nanmean(0)  # of the draws of random weights
    measured, less = ~values.isnan(), score.startswith(LOWER)
    row: Row = {"map": name, "score": score, "mean": float(scores[name][score].nanmean())}
    row |= _ends(scores[name][score], score.startswith(SHARES))
    row["images"] = int(measured.sum())

    def control(kind: str) -> Tensor | None:
        same = case.control(name, kind)
        theirs = None if same in (None, name) else scores[same].get(score)
        return None if score.startswith(NEUTRAL) else theirs

    for kind in ("random", "centre"):
        against = control(kind)
        row[f"beats_{kind}"] = None if against is None else beats(values, against, less)
    oracle = control("oracle") if not less else None
    both = measured if oracle is None else measured & ~oracle.isnan()
    best = 0.0 if oracle is None else float(oracle[both].mean())
    row["of_oracle"] = float(values[both].mean()) / best if best > 0 else None
    row["chance"] = chance.level(case, name, score)
    return row


def _ends(values: Tensor, share: bool, prefix: str = "") -> dict[str, float | None]:
    """The columns low and high; None where too few units were measured."""
    found = estimate(values, share)
    low, high = (None, None) if found is None else (found.low, found.high)
    return {f"{prefix}low": low, f"{prefix}high": high}


def gates_table(gates: Mapping[str, list[Gate]]) -> pd.DataFrame:
    """One row per map and gate that applies to it: the answers, without the questions."""
    rows = [{"map": name} | each._asdict() for name, answered in gates.items() for each in answered]
    return pd.DataFrame(rows).drop(columns=["question", "measure"])


def curves_table(case: Case) -> pd.DataFrame:
    """One row per share of the cells; two columns for each map and baseline."""
    columns = {"fraction": torch.linspace(0, 1, case.steps + 1).numpy()}
    for (name, ending), pair in case.once(curves).items():
        known = case.applies(name)[pair.rows]
        columns[f"{name}_insertion{ending}"] = pair.insertion[known].mean(0).numpy()
        columns[f"{name}_deletion{ending}"] = pair.deletion[known].mean(0).numpy()
    return pd.DataFrame(columns)


def interventions_table(case: Case) -> pd.DataFrame:
    """One row per intervention: means and, of flips and probability, intervals."""
    rows = []
    for name, effects in case.once(interventions.effects).items():
        row: Row = {"intervention": name}
        known = case.applies(name)
        effect = interventions.Effect(*(values[known.to(values.device)] for values in effects))
        for column in ("flips", "probability"):
            values = getattr(effect, column)
            row[column] = float(values.mean())
            row |= _ends(values, column == "flips", f"{column}_")
        row["divergence"] = float(effect.divergence.mean())
        row["top1"] = float(effect.correct.mean())
        rows.append(row)
    return pd.DataFrame(rows)


def images_table(case: Case, scores: Scores, classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per image: its class, the prediction, the attention map's SRG and gain; then the SRG
    of every other map of the network, in a column `srg_NAME`: empty where it was not scored; and
    the attention map's top cells as `stability.written`, for comparing networks of other seeds.
    """
    samples = case.samples
    others = [name for name in answers.RANDOMISED if name != "attention"]
    confidence, predicted = samples.trace.logits.softmax(1).max(1)
    return pd.DataFrame(
        {
            "index": samples.index,
            "truth": [classes[label] for label in samples.labels.tolist()],
            "predicted": [classes[label] for label in predicted.tolist()],
            "confidence": confidence.cpu(),
            "srg": scores["attention"]["srg"],
            "gain_ratio": answers.gain_ratio(case).cpu(),
            "correct": (predicted == samples.labels).int().cpu(),
            **{f"srg_{name}": scores[name]["srg"] for name in others},
            "top_cells": stability.written(stability.top_cells(samples.attention)),
        }
    )
