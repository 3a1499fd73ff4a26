"""The gates that apply to each map, answered from its scores; and which map may be shown."""

from collections.abc import Mapping

from torch import Tensor

from abn.config.params import Gates
from abn.explain import leak, statistics
from abn.explain.case import Case, Scores
from abn.explain.faithfulness import gain
from abn.explain.interventions import effects
from abn.explain.statistics import estimate
from abn.explain.verdict import (
    BY_DESIGN,
    EXPLAINS,
    FAIL,
    PASS,
    QUESTIONS,
    UNDECIDED,
    UNKNOWN,
    Gate,
    Limit,
    gate,
    limits,
    verdict,
)

NONE = "none"  # the recommended map, where no map passes
LARGEST_GAIN = 10.0  # counted: a map that hides cells has an infinite ratio, which has no mean
PROBES = ("leak_noise", "leak_grey")
LEAK_LEVEL = 1 - (1 - statistics.LEVEL) / len(PROBES)  # of each, so that the gate keeps its rate
ONE_MAP = "one map for all classes; the attention branch's class maps (att_cam) differ"
CONTROLS = ("random", "centre", "sobel", "oracle")  # also on other grids: centre_2x2
RANDOMISED = {  # what makes a map, and so has to be random for its gate `sane`
    "attention": "attention",
    "att_cam": "attention",
    "grad_attention": "perception",
    "hirescam": "perception",
    "gradcam": "perception",
    "gradcam_pp": "perception",
}


def answers(case: Case, scores: Scores, thresholds: Gates) -> dict[str, list[Gate]]:
    """The gates that apply to each map but the controls, by its name; the attention's first.

    Every map is asked whether it is faithful, local, stable and sane. The attention alone acts on
    the decision, so that it is asked as well whether it is live, causal, class-specific and, for
    `look`, without a leak.
    """
    names = [name for name in case.maps if not name.startswith(CONTROLS)]
    allowed = limits(thresholds)
    found = {name: _own_gates(case, scores, name, allowed) for name in names}
    before, after = _acting_gates(case, scores, thresholds, allowed)
    return found | {"attention": [*before, *found["attention"], *after]}


def recommended(gates: Mapping[str, list[Gate]], scores: Scores) -> str:
    """The map with the highest mean SRG of those that pass what applies to them; NONE if none."""
    passing = [name for name, answered in gates.items() if verdict(answered) == EXPLAINS]
    return max(passing, key=lambda name: float(scores[name]["srg"].nanmean()), default=NONE)


def gain_ratio(case: Case) -> Tensor:
    """The largest gain of each attention map over its smallest, [N]: 1 to LARGEST_GAIN."""
    return gain(case.samples.attention, case.model.looks)["ratio"].clamp_max(LARGEST_GAIN)


def _own_gates(case: Case, scores: Scores, name: str, allowed: Mapping[str, Limit]) -> list[Gate]:
    """The gates that can be asked of any map."""
    ours = scores[name]

    def ahead(score: str, kind: str) -> Tensor | None:
        control = case.control(name, kind)
        theirs = scores.get(control or "", {}).get(score)
        return None if score not in ours or theirs is None else ours[score] - theirs

    measured = {
        "faithful": ours.get("srg"),
        "faithful_centre": ahead("srg", "centre"),
        "faithful_edges": ahead("srg", "sobel"),
        "local": ahead("auroc", "centre"),
        "stable": ours.get("stability"),
        "sane": ours.get(f"randomised_{RANDOMISED[name]}"),
    }
    return [gate(key, estimate(values), allowed[key]) for key, values in measured.items()]


def _acting_gates(
    case: Case, scores: Scores, thresholds: Gates, allowed: Mapping[str, Limit]
) -> tuple[list[Gate], list[Gate]]:
    """The gates of a map that acts: those that QUESTIONS has before and after every map's own."""
    before = [
        gate("live", estimate(gain_ratio(case)), allowed["live"]),
        _causal(case, allowed["causal"]),
    ]
    if not case.model.looks:
        asked = QUESTIONS["class_specific"].question
        return before, [Gate("class_specific", asked, ONE_MAP, outcome=BY_DESIGN)]
    follows = estimate(scores["attention"].get("class_follow"), share=True)
    specific = gate("class_specific", follows, allowed["class_specific"])
    return before, [_leak(case, scores, thresholds), specific]


def _causal(case: Case, limit: Limit) -> Gate:
    """The flips; the note says what becomes of the probability of the class that was predicted."""
    effect = case.once(effects)["shuffled"]
    change, note = estimate(effect.probability), ""
    if change is not None:
        ends = f"{change.low:+.3f} to {change.high:+.3f}"
        note = f"the predicted class's probability changes by {change.mean:+.3f} ({ends})"
    return gate("causal", estimate(effect.flips, share=True), limit, note)


def _leak(case: Case, scores: Scores, thresholds: Gates) -> Gate:
    """The worse of the two probes, each with the interval that makes the rate of both right."""
    gates = []
    for probe in PROBES:
        said = case.once(leak.answers)[probe.removeprefix("leak_")]
        chance = leak.chance(said, case.samples.predicted)
        found = estimate(scores["attention"][probe], share=True, level=LEAK_LEVEL)
        note = f"{probe.removeprefix('leak_')}, chance {chance:.2f}"
        gates.append(gate("leak", found, limits(thresholds, chance)["leak"], note))
    order = (FAIL, UNKNOWN, UNDECIDED, PASS)
    return min(gates, key=lambda each: (order.index(each.outcome), -_excess(each)))


def _excess(answer: Gate) -> float:
    """The value as a multiple of the threshold."""
    return answer.value / answer.threshold if answer.value and answer.threshold else 0.0
