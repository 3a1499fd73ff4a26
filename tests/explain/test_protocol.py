"""The whole protocol: every score in its table, the verdict, and the same results each time."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from abn.config import params as parameters
from abn.config.params import Explain, Params, Shapes
from abn.data.packed import Split
from abn.datasets.shapes import CLASSES
from abn.explain import counterfactuals
from abn.explain.answers import RANDOMISED, answers
from abn.explain.protocol import ExplainResults, Rerender, build, explain, scores
from abn.explain.verdict import Gate, verdict
from abn.predict import predict
from abn.runtime.errors import UserError
from tests import toys
from tests.conftest import ROOT

RIVALS = ["attention", "att_cam", "grad_attention", "hirescam", "gradcam", "gradcam_pp"]
CONTROLS = ["random", "centre", "sobel"]
LOCATED = {"auroc", "rank_accuracy", "pointing", "energy", "lift", "iou"}
OWN = ["faithful", "faithful_centre", "faithful_edges", "local", "stable", "sane"]
PROBES = "noise", "grey"
GATES = ["live", "causal", *OWN]


@pytest.fixture(scope="module")
def config() -> Explain:
    return parameters.load(ROOT / "params.yaml").explain.model_copy(
        update={"images": 30, "steps": 4}
    )


@pytest.fixture(scope="module")
def results(split: Split, config: Explain) -> ExplainResults:
    return run(split, config)


class Brightness(toys.Network):
    """A network that looks where it is bright."""

    def features(self, images: Tensor) -> Tensor:
        self.bright = images.mean(1, True)[..., 4::8, 4::8]
        return super().features(images)

    def attention_branch(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.att_conv2(features), self.bright


def run(
    split: Split,
    config: Explain,
    model: nn.Module | None = None,
    siblings: tuple[nn.Module, ...] = (),
) -> ExplainResults:
    model = (model or toys.network()).eval()
    return explain(model, split, split, toys.WHOLE, config, siblings)


def test_every_map_has_a_row_for_each_of_its_scores(results: ExplainResults) -> None:
    maps = results.maps
    coarse = ["centre_2x2", "sobel_2x2", "oracle_2x2"]  # Grad-CAM's own grid
    assert maps["map"].unique().tolist() == [*RIVALS, *CONTROLS, "oracle", *coarse, "rise"]
    assert not maps.duplicated(["map", "score"]).any()
    enough = maps[maps["images"] >= 20]
    assert (enough["low"] <= enough["mean"]).all() and (enough["mean"] <= enough["high"]).all()
    assert maps[maps["images"] < 20][["low", "high"]].isna().all(axis=None)
    scores = maps.groupby("map")["score"].agg(set)
    for name in [*RIVALS, *CONTROLS, "oracle"]:
        assert {"srg", "insertion", "deletion"} | LOCATED <= scores[name]
    for name in RIVALS:
        assert {"sensitivity", "flip", "shift", "randomised_all"} <= scores[name]
    means = maps.set_index(["map", "score"])["mean"]
    for ending in ("", "_colour"):
        gap = means["oracle", f"insertion{ending}"] - means["oracle", f"deletion{ending}"]
        assert means["oracle", f"srg{ending}"] == pytest.approx(gap)


def test_rise_is_scored_on_fewer_images_than_the_others(results: ExplainResults) -> None:
    counts = results.maps[results.maps["score"] == "srg"].set_index("map")["images"]
    assert counts["rise"] == 20 and counts["attention"] == 30


def test_the_oracle_finds_the_objects_and_chance_does_not(results: ExplainResults) -> None:
    means = results.maps.set_index(["map", "score"])["mean"]
    assert means["oracle", "auroc"] > 0.95 and means["oracle", "pointing"] == 1
    assert 0.4 < means["random", "auroc"] < 0.6
    assert means["random", "energy"] < means["oracle", "energy"]
    assert results.headline["auroc_oracle"] == means["oracle", "auroc"]


def test_without_masks_nothing_is_located_and_nothing_else_changes(
    split: Split, config: Explain, results: ExplainResults
) -> None:
    blind = run(dataclasses.replace(split, masks=None), config)
    assert not set(blind.maps["score"]) & LOCATED and "oracle" not in set(blind.maps["map"])
    assert not any("oracle" in name for name in [*blind.headline, *blind.curves.columns])
    assert blind.headline["gate_local"] == "not measured"
    columns = ["map", "score", "mean", "low", "high", "beats_random"]  # chance is the object's
    blinded = ~results.maps["map"].str.startswith("oracle")
    shared = results.maps[blinded & ~results.maps["score"].isin(LOCATED)]
    rest = shared[~shared["score"].isin(["energy_raw", "pointing_tolerant"])]
    assert blind.maps[columns].equals(rest[columns].reset_index(drop=True))


def test_where_some_images_have_a_mask_those_alone_are_located(
    split: Split, config: Explain, results: ExplainResults
) -> None:
    assert split.masks is not None
    have = torch.arange(40) < 32
    masks = split.masks * have[:, None, None]
    found = run(dataclasses.replace(split, masks=masks, masked=have), config)
    count = int(have[torch.tensor(found.images["index"])].sum())  # of the 30 that are scored
    assert 20 <= count < 30
    local = found.gates.set_index("gate").loc["local"]
    assert local["units"] == count and local["outcome"] != "not measured"
    images = found.maps.set_index(["map", "score"])["images"]
    for score in LOCATED:
        assert images["attention", score] == images["oracle", score] == count
    assert images["attention", "srg"] == 30 and images["oracle", "srg"] == count
    means = found.maps.set_index(["map", "score"])["mean"]
    area = np.trapezoid(found.curves["oracle_insertion"], found.curves["fraction"])
    assert means["oracle", "insertion"] == pytest.approx(area)
    assert found.images.equals(results.images)  # the rest is as with all masks


def test_the_curves_run_from_nothing_to_all_for_each_map(results: ExplainResults) -> None:
    curves = results.curves
    assert curves["fraction"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    blurred = {name for name in results.maps["map"] if f"{name}_insertion" in curves}
    assert blurred == set(results.maps["map"])
    for ending in ("", "_colour"):
        insertion, deletion = (curves[f"centre_{w}{ending}"] for w in ("insertion", "deletion"))
        assert insertion.iloc[0] == pytest.approx(deletion.iloc[-1], abs=1e-6)
        assert insertion.iloc[-1] == pytest.approx(deletion.iloc[0], abs=1e-6)
        key = f"baseline_confidence{ending}"
        assert insertion.iloc[0] == pytest.approx(results.headline[key], abs=1e-6)


def test_what_is_explained_is_the_predicted_class_right_or_wrong(
    split: Split, config: Explain
) -> None:
    few = split.take(torch.arange(8))
    curves = run(few, config).curves
    logits = predict(toys.network(), few, toys.WHOLE, 8, toys.CPU).logits
    confidence = logits.softmax(1).max(1).values.mean().item()
    assert curves["attention_deletion"][0] == pytest.approx(confidence, abs=1e-5)


def test_there_is_a_row_for_each_intervention(results: ExplainResults) -> None:
    table = results.interventions.set_index("intervention")
    names = ["none", "zero", "mean", "shuffled", "inverted", "another", "att_cam", "oracle"]
    assert table.index.tolist() == names
    assert table.loc["none", ["flips", "probability", "divergence"]].tolist() == [0, 0, 0]
    assert (table["flips_low"] <= table["flips"]).all()
    assert results.headline["zero_top1"] == table["top1"]["zero"]


def test_the_verdict_follows_from_the_gates(results: ExplainResults) -> None:
    gates = results.gates.set_index("gate")
    assert gates.index.tolist() == [*GATES, "class_specific"]
    assert gates["outcome"]["stable"] == "not measured"
    assert math.isnan(gates["value"]["stable"]) and gates["threshold"]["stable"] == 0.5
    for gate in gates.index:
        assert results.headline[f"gate_{gate}"] == gates["outcome"][gate]
    assert results.headline["verdict"] == verdict([Gate(*row) for row in rows(results.gates)])
    open_ = gates.index[gates["outcome"] == "undecided"]
    assert results.headline["undecided"] == ", ".join(open_) or "none"
    assert (gates["images_needed"].dropna() > 30).all()


def rows(table: pd.DataFrame) -> Iterable[tuple[Any, ...]]:
    return table.itertuples(index=False, name=None)


def test_every_map_is_put_to_the_gates_that_apply_to_it(results: ExplainResults) -> None:
    asked = results.map_gates.groupby("map", sort=False)["gate"].agg(list)
    assert asked.index.tolist() == RIVALS  # the controls are not asked
    assert asked["attention"] == results.gates["gate"].tolist()
    for name in RIVALS[1:]:
        assert asked[name] == OWN
    table = results.map_gates.set_index(["map", "gate"])
    means = results.maps.set_index(["map", "score"])["mean"]
    for name in RIVALS:
        assert table["value"][name, "faithful"] == pytest.approx(means[name, "srg"])
        part = "attention" if name in ("attention", "att_cam") else "perception"
        if table["outcome"][name, "sane"] != "not measured":  # the map is not flat
            assert table["value"][name, "sane"] == pytest.approx(means[name, f"randomised_{part}"])


def test_below_twenty_images_nothing_is_measured(split: Split, config: Explain) -> None:
    few = run(split, config.model_copy(update={"images": 19}))
    assert few.headline["verdict"] == "not measured" and few.headline["recommended"] == "none"
    outcomes = few.gates.set_index("gate")["outcome"]
    assert (outcomes[GATES] == "not measured").all()
    assert "srg_low" not in few.headline and few.headline["srg"] == few.headline["srg"]
    json.dumps(few.headline, allow_nan=False)


def test_the_paired_gates_compare_the_same_images(results: ExplainResults) -> None:
    means = results.maps.set_index(["map", "score"])["mean"]
    values = results.gates.set_index("gate")["value"]
    srg = means["attention", "srg"]
    assert values["faithful"] == pytest.approx(srg)
    assert values["faithful_edges"] == pytest.approx(srg - means["sobel", "srg"])
    assert values["faithful_centre"] == pytest.approx(srg - means["centre", "srg"])
    auroc = means["attention", "auroc"] - means["centre", "auroc"]
    assert values["local"] == pytest.approx(auroc)


def test_a_flat_map_is_called_flat_dead_and_no_explanation(split: Split, config: Explain) -> None:
    model = toys.network()
    nn.init.zeros_(model.att_conv3.weight)
    flat = run(split, config, model=model).headline
    assert flat["flat_share"] == flat["gain_ratio"] == 1
    assert flat["auroc"] == 0.5 and flat["shuffled_flips"] == 0
    assert flat["gate_live"] == "fail"
    assert flat["gate_causal"] == "undecided"  # no flip in 30 images is up to 0.12
    assert flat["verdict"] == "does not explain"


def test_a_map_of_the_object_is_recognised(split: Split, config: Explain) -> None:
    assert split.masks is not None
    images = split.images * (split.masks == 1)[..., None]  # black around the objects
    bright = dataclasses.replace(split, images=images)
    torch.manual_seed(0)
    results = run(bright, config, model=Brightness()).headline
    assert results["flat_share"] == 0 and results["gain_ratio"] > 1.2
    assert results["auroc"] > 0.95 and results["pointing"] == 1 and results["gate_local"] == "pass"


def test_an_identical_network_is_stable_and_another_is_not(split: Split, config: Explain) -> None:
    same = run(split, config, siblings=(toys.network().eval(),)).headline
    assert same["stability"] == 1 and same["gate_stable"] == "pass"
    other = run(split, config, siblings=(toys.network(seed=9).eval(),)).headline
    assert other["stability"] < 1


@pytest.fixture
def shaped(params: Params, changed: Callable[..., Shapes]) -> tuple[Split, Rerender]:
    """Pictures of shapes without distractors, and a function that renders them again."""
    look = changed(params.data.shapes, distractors=0)
    rerender = partial(counterfactuals.parts, look, 0, 32)
    whole, masks, _ = rerender(torch.arange(20))
    labels = torch.arange(20) % len(CLASSES)
    return Split(whole, labels, torch.ones(20), masks, CLASSES, "shapes", "", ("",) * 20), rerender


def test_shapes_are_rendered_again_to_see_what_decides(
    shaped: tuple[Split, Rerender], config: Explain
) -> None:
    split, rerender = shaped
    model = toys.network(10).eval()
    results = explain(model, split, split, toys.WHOLE, config, rerender=rerender)
    assert "importance_target" in results.headline and "density_background" in set(
        results.maps["score"]
    )
    assert "importance_distractors" not in results.headline  # there are none
    json.dumps(results.headline, allow_nan=False)


def test_images_that_cannot_be_rendered_again_are_refused(
    shaped: tuple[Split, Rerender], config: Explain
) -> None:
    split, rerender = shaped
    split.images[3, 0, 0, 0] += 1
    model = toys.network(10).eval()
    with pytest.raises(UserError, match="dvc repro"):
        explain(model, split, split, toys.WHOLE, config, rerender=rerender)


def test_there_is_a_row_for_each_image(results: ExplainResults, split: Split) -> None:
    images = results.images
    names = ["index", "truth", "predicted", "confidence", "srg", "gain_ratio", "correct"]
    names += [f"srg_{name}" for name in RANDOMISED if name != "attention"]
    assert images.columns.tolist() == [*names, "top_cells"] and len(images) == 30
    assert images["truth"].tolist() == [toys.NAMES[split.labels[i]] for i in images["index"]]
    assert ((images["truth"] == images["predicted"]) == (images["correct"] == 1)).all()
    assert images["srg"].mean() == pytest.approx(results.headline["srg"])


def test_the_same_seed_gives_the_same_results_and_another_does_not(
    split: Split, config: Explain, results: ExplainResults, changed: Callable[..., Explain]
) -> None:
    again, other = run(split, config), run(split, changed(config, seed=1))
    assert results.headline == again.headline != other.headline
    for name, table in results.tables().items():
        assert table.equals(again.tables()[name])


def test_the_full_profile_spends_more(
    split: Split, config: Explain, changed: Callable[..., Explain], params: Params
) -> None:
    full = run(split, changed(config, profile="full")).maps
    counts = full[full["map"] == "rise"].set_index("score")["images"]
    assert counts["srg"] == 20
    steps = ("conv1", "layer1", "layer2", "layer3", "attention", "perception")
    assert {f"randomised_up_to_{step}" for step in steps} <= set(full["score"])
    means = full[full["map"] == "attention"].set_index("score")["mean"]
    assert means["randomised_perception"] == 1  # by construction, whatever else is random
    assert means["randomised_up_to_perception"] < 1


def test_a_network_that_looks_is_also_asked_for_leaks_and_one_class_among_four(
    split: Split, config: Explain
) -> None:
    looking = run(split, config, model=toys.network(attention="look"))
    gates = looking.gates.set_index("gate")
    assert gates.index.tolist() == [*GATES, "leak", "class_specific"]
    assert gates["units"]["leak"] == 30
    assert gates["outcome"]["class_specific"] == "not measured"  # too few right ones for a mosaic
    chances = looking.maps.set_index(["map", "score"])["chance"]
    shown = {
        f"{probe}, chance {chances['attention', f'leak_{probe}']:.2f}": probe for probe in PROBES
    }
    worse = [probe for note, probe in shown.items() if gates["note"]["leak"].endswith(note)]
    means = looking.maps.set_index(["map", "score"])["mean"]
    assert gates["value"]["leak"] in [means["attention", f"leak_{probe}"] for probe in worse]
    assert gates["value"]["live"] == looking.headline["gain_ratio"]
    json.dumps(looking.headline, allow_nan=False)


@pytest.mark.parametrize(("share", "outcome"), [(1.0, "pass"), (0.25, "undecided"), (0.0, "fail")])
def test_a_decision_that_follows_the_map_of_one_class_passes_class_specific(
    split: Split, config: Explain, share: float, outcome: str
) -> None:
    model = toys.network(attention="look").eval()
    case = build(model, split, toys.WHOLE, config)
    scored = scores(case)
    scored["attention"]["class_follow"] = torch.full((30,), share)
    follows = answers(case, scored, config.gates)["attention"][-1]
    assert (follows.gate, follows.outcome, follows.units) == ("class_specific", outcome, 30)
