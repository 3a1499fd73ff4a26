"""The results as tables and headline numbers: metrics/explain.json and plots/explain_*.csv."""

import math

import pandas as pd
import torch
from torch import Tensor

from abn.explain import interventions, verdict
from abn.explain.case import FLAT, Case, Scores
from abn.explain.counterfactuals import part_importance
from abn.explain.faithfulness import BASELINES, curves, gain
from abn.explain.statistics import LOWER, NEUTRAL, beats, interval
from abn.explain.verdict import Gate

HEADLINE = {  # of the attention map: its scores, and the maps whose score is given with them
    "srg": ("random", "centre", "oracle", "att_cam", "gradcam"),
    "srg_colour": (),
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


def headline(case: Case, table: pd.DataFrame, gates: list[Gate]) -> Headline:
    """The verdict, the attention map's main scores, its gain, and what happens without it.

    `table` is that of `maps_table`.
    """
    return {
        "verdict": verdict.verdict(gates),
        **{f"gate_{gate.gate}": gate.outcome for gate in gates},
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
        numbers[f"srg_{key}"] = rows["attention", "srg"][key]
    for ending in BASELINES:
        pair = case.once(curves)["attention", ending]
        numbers[f"baseline_confidence{ending}"] = float(pair.insertion.mean(0)[0])
    return numbers


def _attention(case: Case) -> Headline:
    """The map's gain and the share of flat maps; how alike the branches' predictions are."""
    values, output = gain(case.samples.attention), case.samples.trace.output()
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
        numbers[f"{name}_top1"] = float(effects[name].correct.mean())
    return numbers


def _means(values: dict[str, Tensor]) -> dict[str, float]:
    """The means of the values that are not NaN, leaving out what is NaN everywhere."""
    means = {name: float(value.nanmean()) for name, value in values.items()}
    return {name: mean for name, mean in means.items() if not math.isnan(mean)}


def maps_table(scores: Scores, seed: int) -> pd.DataFrame:
    """One row per map and score [N] in `scores[map][score]`; a NaN is an image not scored.

    map, score, mean, low, high, images; beats_random and beats_centre, the paired shares of wins;
    of_ceiling, the mean divided by the oracle's on the same images, where that means something.
    """
    rows = [
        _row(scores, name, score, seed)
        for name, values in scores.items()
        for score in values
        if not values[score].isnan().all()
    ]
    return pd.DataFrame(rows)


def _row(scores: Scores, name: str, score: str, seed: int) -> dict[str, str | float | None]:
    values = scores[name][score]
    bounds = interval(values, seed)
    assert bounds is not None
    measured = ~values.isnan()
    row: dict[str, str | float | None] = {"map": name, "score": score}
    row |= dict(zip(("mean", "low", "high"), bounds, strict=True))
    row["images"] = int(measured.sum())
    rivals = {} if score.startswith(NEUTRAL) else {k: v.get(score) for k, v in scores.items()}
    for control in ("random", "centre"):
        against = rivals.get(control) if name != control else None
        won = None if against is None else beats(values, against, score.startswith(LOWER))
        row[f"beats_{control}"] = won
    oracle = rivals.get("oracle") if not score.startswith(LOWER) else None
    ceiling = 0.0 if oracle is None else float(oracle[measured].mean())
    row["of_ceiling"] = bounds[0] / ceiling if ceiling > 0 else None
    return row


def curves_table(case: Case) -> pd.DataFrame:
    """One row per share of the cells; two columns for each map and baseline."""
    columns = {"fraction": torch.linspace(0, 1, case.steps + 1).numpy()}
    for (name, ending), pair in case.once(curves).items():
        columns[f"{name}_insertion{ending}"] = pair.insertion.mean(0).numpy()
        columns[f"{name}_deletion{ending}"] = pair.deletion.mean(0).numpy()
    return pd.DataFrame(columns)


def interventions_table(case: Case) -> pd.DataFrame:
    """One row per intervention: means and, of flips and probability, intervals."""
    rows = []
    for name, effect in case.once(interventions.effects).items():
        row: dict[str, float | str] = {"intervention": name}
        for column in ("flips", "probability"):
            bounds = interval(getattr(effect, column), case.seed)
            assert bounds is not None
            row |= dict(zip((column, f"{column}_low", f"{column}_high"), bounds, strict=True))
        row["divergence"] = float(effect.divergence.mean())
        row["top1"] = float(effect.correct.mean())
        rows.append(row)
    return pd.DataFrame(rows)


def images_table(case: Case, srg: Tensor, classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per image: its class, the prediction, and the attention map's SRG [N] and gain."""
    samples = case.samples
    confidence, predicted = samples.trace.logits.softmax(1).max(1)
    return pd.DataFrame(
        {
            "index": samples.index,
            "truth": [classes[label] for label in samples.labels.tolist()],
            "predicted": [classes[label] for label in predicted.tolist()],
            "confidence": confidence.cpu(),
            "srg": srg,
            "gain_ratio": gain(samples.attention)["ratio"].cpu(),
            "correct": (predicted == samples.labels).int().cpu(),
        }
    )
