"""Does the attention map explain the decision? The map against rivals and controls, in numbers.

Every map is scored on the same images, on the same grid, for the class that was predicted, right
or wrong. The findings depend on the weights, the data and the seed alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from abn.config.params import Explain
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.explain import counterfactuals, examine, faithfulness, interventions, statistics, verdict
from abn.explain.case import Subject, choose, observe
from abn.explain.counterfactuals import Pictures
from abn.explain.examine import PROFILES, Curves, Scored
from abn.explain.interventions import Effect
from abn.explain.statistics import Interval
from abn.explain.verdict import Gate
from abn.models.abn import AttentionBranchNetwork
from abn.runtime import progress

Rerender = Callable[[Tensor], Pictures]  # of the images at an index int64 [N]


class Findings(NamedTuple):
    """The headline numbers and the tables behind them."""

    headline: dict[str, float | str]
    maps: pd.DataFrame  # one row per map and score
    curves: pd.DataFrame  # mean insertion and deletion, one row per share of the cells
    interventions: pd.DataFrame  # one row per map put in the attention's place
    gates: pd.DataFrame  # one row per question of the verdict
    images: pd.DataFrame  # one row per image

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by name."""
        return {name: x for name, x in self._asdict().items() if isinstance(x, pd.DataFrame)}


def explain(
    model: AttentionBranchNetwork,
    train: Split,
    val: Split,
    view: CenterCrop,
    config: Explain,
    seed: int,
    siblings: Sequence[AttentionBranchNetwork] = (),
    rerender: Rerender | None = None,
) -> Findings:
    """Examine `model`'s map, and its rivals, on `config.images` images of `val`.

    `train` only fixes the threshold of IoU; `siblings` are the same network from other seeds;
    `rerender` gives the images at an index anew, without their parts, where that can be done.
    """
    subject = observe(model, val, choose(val, config.images, seed), view)
    contestants = examine.contestants(model, subject, seed)
    scored, curves = _scored(model, subject, contestants, config, seed)
    importance: dict[str, Tensor] = {}
    if subject.masks is not None:
        other = observe(model, train, choose(train, config.images, seed), view)
        theirs = examine.contestants(model, other, seed)
        for name, drawn in contestants.items():
            scored[name] |= examine.located(drawn, subject, theirs[name], other)
    if rerender is not None:
        pictures = rerender(subject.index)
        counterfactuals.check(pictures.whole, val.take(subject.index).images)
        importance, regions = examine.rested(model, subject, pictures, view)
        for name, drawn in contestants.items():
            scored[name] |= examine.agreeing(drawn, importance, regions)
    for name, pair in examine.stable([model, *siblings], subject).items():
        scored[name] |= dict(zip(("stability", "stability_ranks"), pair, strict=True))
    effects = examine.effects(model, subject, seed)
    table = statistics.table(scored, seed)
    gates = verdict.gates(_answers(scored, effects, subject, seed), config.gates)
    headline = _headline(table, effects, subject, gates, curves["attention"])
    headline |= {f"importance_{part}": mean for part, mean in _means(importance).items()}
    return Findings(
        headline,
        table,
        _lines(curves, config.steps),
        _changes(effects, seed),
        pd.DataFrame(gates),
        _images(subject, scored["attention"]["srg"], val.classes),
    )


def _scored(
    model: AttentionBranchNetwork,
    subject: Subject,
    contestants: dict[str, Tensor],
    config: Explain,
    seed: int,
) -> tuple[Scored, dict[str, Curves]]:
    """Every map's scores that any images have, and its curves."""
    effort, steps = PROFILES[config.profile], config.steps
    scored, curves = {}, {}
    with progress.bar("explain", len(contestants) + 2, "map") as bar:
        for name, drawn in progress.counted(contestants.items(), bar):
            found = examine.faithful(model, subject, drawn, steps, name, seed)
            scored[name], curves[name] = found
        scored["rise"], curves["rise"] = examine.rise(model, subject, effort, steps, seed)
        bar.update()
        for name, values in examine.robust(model, subject, effort, seed).items():
            scored[name] |= values
        for name, quadrants in examine.pointing_grids(model, subject, effort, seed).items():
            scored[name]["grid_pointing"] = quadrants
        bar.update()
    return scored, curves


def _answers(
    scored: Scored, effects: dict[str, Effect], subject: Subject, seed: int
) -> dict[str, Interval | None]:
    """The interval that answers each gate; None where it was not measured."""
    ours = scored["attention"]

    def ahead(score: str, control: str) -> Tensor | None:
        return ours[score] - scored[control][score] if score in ours else None

    measured = {
        "live": faithfulness.gain(subject.attention)["ratio"],
        "causal": effects["shuffled"].flips,
        "faithful": ahead("srg", "random"),
        "faithful_centre": ahead("srg", "centre"),
        "local": ahead("auroc", "centre"),
        "stable": ours.get("stability"),
        "sane": ours["randomised_attention"],
    }
    return {name: statistics.interval(values, seed) for name, values in measured.items()}


HEADLINE = {  # of the attention: its scores, and those whose controls are told with them
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


def _headline(
    table: pd.DataFrame,
    effects: dict[str, Effect],
    subject: Subject,
    gates: list[Gate],
    curves: Curves,
) -> dict[str, float | str]:
    """The verdict, the attention's chief scores, its gain, and what happens without it."""
    rows = table.set_index(["map", "score"]).to_dict("index")
    found: dict[str, float | str] = {"verdict": verdict.verdict(gates)}
    found |= {f"gate_{gate.gate}": gate.outcome for gate in gates}
    found["images"] = len(subject.images)
    for score, others in HEADLINE.items():
        for name in ("attention", *others):
            if (name, score) in rows:
                key = score if name == "attention" else f"{score}_{name}"
                found[key] = rows[name, score]["mean"]
    kept = ("low", "high", "beats_random", "beats_centre")
    found |= {f"srg_{key}": rows["attention", "srg"][key] for key in kept}
    found["baseline_confidence"] = float(curves[""][0][0])
    found["baseline_confidence_colour"] = float(curves["_colour"][0][0])
    gain = faithfulness.gain(subject.attention)
    found |= {f"gain_{key}": float(value.mean()) for key, value in gain.items()}
    found["flat_share"] = float((gain["ratio"] < faithfulness.FLAT).double().mean())
    same, apart = interventions.agreement(
        subject.trace.output().attention_logits, subject.trace.logits
    )
    found |= {"branch_agreement": float(same.double().mean())}
    found |= {"branch_divergence": float(apart.mean())}
    for name in ("zero", "shuffled", "another"):
        found[f"{name}_flips"] = float(effects[name].flips.mean())
        found[f"{name}_top1"] = float(effects[name].correct.mean())
    return found


def _means(values: dict[str, Tensor]) -> dict[str, float]:
    """The means of what is not NaN; nothing of what is nowhere measured."""
    found = {name: float(value.nanmean()) for name, value in values.items()}
    return {name: mean for name, mean in found.items() if not math.isnan(mean)}


def _lines(curves: dict[str, Curves], steps: int) -> pd.DataFrame:
    """One row per share of the cells; two columns for each map and baseline."""
    table = {"fraction": torch.linspace(0, 1, steps + 1).numpy()}
    for name, found in curves.items():
        for ending, pair in found.items():
            for way, curve in zip(("insertion", "deletion"), pair, strict=True):
                table[f"{name}_{way}{ending}"] = curve.numpy()
    return pd.DataFrame(table)


def _changes(effects: dict[str, Effect], seed: int) -> pd.DataFrame:
    """One row per intervention: means and, of flips and probability, intervals."""
    rows = []
    for name, effect in effects.items():
        row: dict[str, float | str] = {"intervention": name}
        for column in ("flips", "probability"):
            found = statistics.interval(getattr(effect, column), seed)
            assert found is not None
            row |= dict(zip((column, f"{column}_low", f"{column}_high"), found, strict=True))
        row["divergence"] = float(effect.divergence.mean())
        row["top1"] = float(effect.correct.mean())
        rows.append(row)
    return pd.DataFrame(rows)


def _images(subject: Subject, srg: Tensor, classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per image: what it shows, what was said of it, and what its map is worth."""
    confidence, predicted = subject.trace.logits.softmax(1).max(1)
    return pd.DataFrame(
        {
            "index": subject.index,
            "truth": [classes[label] for label in subject.labels.tolist()],
            "predicted": [classes[label] for label in predicted.tolist()],
            "confidence": confidence.cpu(),
            "srg": srg,
            "gain_ratio": faithfulness.gain(subject.attention)["ratio"].cpu(),
            "correct": (predicted == subject.labels).int().cpu(),
        }
    )
