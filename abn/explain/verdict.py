"""The verdict on a map: questions with thresholds, their answers, and one conclusion.

The thresholds are this project's own proposals and parameters (`explain.gates`). An answer counts
when the whole 95 % interval is beyond the threshold, not when the mean is.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from abn.config.params import Gates
from abn.explain.case import Case, Scores
from abn.explain.faithfulness import gain
from abn.explain.interventions import effects
from abn.explain.statistics import Interval, interval

PASS, FAIL, UNKNOWN, BY_DESIGN = "pass", "fail", "not measured", "by design"
EXPLAINS, PARTLY, NOT = "explains", "partly explains", "does not explain"

# Without these nothing is explained, whatever else is measured or not.
NEEDED = ("live", "causal", "faithful", "faithful_centre", "sane")
FATAL = ("live", "causal", "faithful")  # failing one of these is not a matter of degree


class Gate(NamedTuple):
    """One question and its answer."""

    gate: str
    question: str
    measure: str
    threshold: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    outcome: str = UNKNOWN


QUESTIONS = {  # of each gate: what is asked, and the number that answers
    "live": ("Can the map change the features at all?", "largest gain over the smallest"),
    "causal": ("Do decisions change when the map is shuffled?", "share of decisions flipped"),
    "faithful": ("Does it rank what decides better than chance?", "SRG less the random map's"),
    "faithful_centre": (
        "Does it rank what decides better than a blob in the centre?",
        "SRG less the centre's",
    ),
    "local": (
        "Does it find the object better than a blob in the centre?",
        "AUROC less the centre's",
    ),
    "stable": (
        "Do networks from other seeds look at the same cells?",
        "IoU of the top fifth of the cells",
    ),
    "sane": (
        "Does it change when its branch gets random weights?",
        "rank correlation left, of either sign",
    ),
}
CLASS_SPECIFIC = Gate(
    "class_specific",
    "Does it show what counts for one class and against another?",
    "one map for all classes; the attention branch's class maps (att_cam) do",
    outcome=BY_DESIGN,
)


def answers(case: Case, scores: Scores) -> dict[str, Interval | None]:
    """The interval that answers each gate; None where it was not measured."""
    ours = scores["attention"]

    def ahead(score: str, control: str) -> Tensor | None:
        return ours[score] - scores[control][score] if score in ours else None

    measured = {
        "live": gain(case.samples.attention)["ratio"],
        "causal": case.once(effects)["shuffled"].flips,
        "faithful": ahead("srg", "random"),
        "faithful_centre": ahead("srg", "centre"),
        "local": ahead("auroc", "centre"),
        "stable": ours.get("stability"),
        "sane": ours["randomised_attention"],
    }
    return {name: interval(values, case.seed) for name, values in measured.items()}


def gates(measured: Mapping[str, Interval | None], limits: Gates) -> list[Gate]:
    """Every gate, in order; `measured` has the interval by the gate's name, None for no answer."""
    least = limits.model_dump() | {"faithful_centre": limits.faithful}
    return [*(_gate(name, measured.get(name), least[name]) for name in QUESTIONS), CLASS_SPECIFIC]


def verdict(answered: list[Gate]) -> str:
    """One conclusion from all gates.

    NOT if a gate in FATAL fails; UNKNOWN if one of them was not measured; EXPLAINS if no measured
    gate fails and all in NEEDED pass; else PARTLY.
    """
    outcome = {gate.gate: gate.outcome for gate in answered}
    if any(outcome[name] == FAIL for name in FATAL):
        return NOT
    if any(outcome[name] == UNKNOWN for name in FATAL):
        return UNKNOWN
    complete = all(outcome[name] == PASS for name in NEEDED)
    return EXPLAINS if complete and FAIL not in outcome.values() else PARTLY


def _gate(name: str, measured: Interval | None, limit: float) -> Gate:
    if measured is None:
        return Gate(name, *QUESTIONS[name], limit)
    mean, low, high = measured
    passed = high < limit if name == "sane" else low > limit
    return Gate(name, *QUESTIONS[name], limit, mean, low, high, PASS if passed else FAIL)
