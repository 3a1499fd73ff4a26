"""The verdict on a map: gates with thresholds, three answers to each, and one conclusion.

The thresholds are this project's own proposals and parameters (`explain.gates`). A gate is passed
where the whole 95 % interval lies beyond its threshold, failed where the whole interval falls short
of it, and undecided between: then it says how many images would decide. With fewer than
`statistics.UNITS` independent units nothing is measured.
"""

from typing import NamedTuple

from abn.config.params import Gates
from abn.explain import statistics
from abn.explain.statistics import Estimate

PASS, FAIL, UNDECIDED = "pass", "fail", "undecided"
UNKNOWN, BY_DESIGN = "not measured", "by design"
EXPLAINS, PARTLY, NOT = "explains", "partly explains", "does not explain"

# Without these, where they apply, nothing is explained, whatever else is measured or not.
NEEDED = ("live", "causal", "faithful", "faithful_centre", "faithful_edges", "sane", "leak")
FATAL = ("live", "causal", "faithful")  # failing one of these is not a matter of degree

MOST = 10**6  # images: a gate that needs more is too close to its threshold to be decided
LEAK_MARGIN = 0.5  # times chance: how far above the threshold a passing interval may reach


class Question(NamedTuple):
    """What a gate asks, and the number that answers."""

    question: str
    measure: str
    unit: str = "images"  # what is independent, and counted
    needs: str = ""  # what else there has to be


class Limit(NamedTuple):
    """A threshold, and what it takes to pass."""

    threshold: float
    less: bool = False  # whether less is better
    margin: float = 0.0  # by how much the interval of a passing gate may exceed the threshold

    def outcome(self, found: Estimate) -> str:
        """PASS, FAIL or UNDECIDED."""
        if not self.less:
            passed, failed = found.low > self.threshold, found.high < self.threshold
        else:
            within = found.mean <= self.threshold
            passed = within and found.high < self.threshold + self.margin
            failed = found.low > self.threshold
        return PASS if passed else FAIL if failed else UNDECIDED


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
    units: int | None = None  # images measured; mosaics, for class_specific
    images_needed: int | None = None  # only where undecided, and where some number would decide
    note: str = ""


QUESTIONS = {
    "live": Question("Can the map change anything at all?", "largest gain over the smallest"),
    "causal": Question(
        "Do decisions change when the map is shuffled?", "share of decisions flipped"
    ),
    "faithful": Question("Does it rank what decides better than a random order?", "SRG"),
    "faithful_centre": Question(
        "Does it rank what decides better than a blob in the centre?", "SRG less the centre's"
    ),
    "faithful_edges": Question(
        "Does it rank what decides better than edges, which need no network?",
        "SRG less the edges'",
    ),
    "local": Question(
        "Does it find the object better than a blob in the centre?",
        "AUROC less the centre's",
        needs=", and data with masks of the object",
    ),
    "stable": Question(
        "Do networks from other seeds look at the same cells?",
        "IoU of the top fifth of the cells",
        needs=", and networks from other seeds (explain.siblings)",
    ),
    "sane": Question(
        "Does it change when what makes it gets random weights?",
        "rank correlation left, of either sign",
    ),
    "leak": Question(
        "Does the map's outline alone give the class away?",
        "share of empty pictures named like the image, noise or grey",
    ),
    "class_specific": Question(
        "Does the decision follow the map of one class among four?",
        "share of maps whose class wins",
        "mosaics",
    ),
}


def limits(thresholds: Gates, leak_chance: float = 0.0) -> dict[str, Limit]:
    """The limit of each gate; `leak_chance` is how often an empty picture is named by chance.

    The leak's rule differs, because at 200 images and ten classes an interval is as wide as the
    way from chance to 1.5 times chance: a clean network would often be undecided. It fails where
    the whole interval is above the threshold, and passes where the share is not above it and the
    interval excludes half a chance more (2 times chance, with the threshold of 1.5).
    """
    each = thresholds.model_dump()
    plain = {name: Limit(each[name]) for name in ("live", "causal", "local", "stable")}
    return plain | {
        **dict.fromkeys(("faithful", "faithful_centre", "faithful_edges"), Limit(each["faithful"])),
        "sane": Limit(each["sane"], less=True),
        "leak": Limit(each["leak"] * leak_chance, less=True, margin=LEAK_MARGIN * leak_chance),
        "class_specific": Limit(each["class_specific"]),
    }


def gate(name: str, found: Estimate | None, limit: Limit, note: str = "") -> Gate:
    """The answer to one question; `found` is None where there is no interval."""
    asked = QUESTIONS[name]
    blank = Gate(name, asked.question, asked.measure, limit.threshold)
    if found is None:
        why = f"needs at least {statistics.UNITS} {asked.unit}{asked.needs}"
        return blank._replace(note=why)
    mean, low, high, units, *_ = found
    outcome = limit.outcome(found)
    answer = blank._replace(value=mean, low=low, high=high, outcome=outcome, units=units, note=note)
    if outcome != UNDECIDED:
        return answer
    needed = units_needed(found, limit)
    words = "too close to the threshold to decide"
    if needed is not None:
        words = f"about {needed:,} {asked.unit} would decide"
    return answer._replace(images_needed=needed, note="; ".join(filter(None, (words, note))))


def units_needed(found: Estimate, limit: Limit) -> int | None:
    """How many units would decide if the mean stayed, rounded up to two digits; None above MOST.

    With random weights as well, the draws of these would have to grow in proportion.
    """

    def decides(units: int) -> bool:
        return limit.outcome(found.at(units)) != UNDECIDED

    few, many = found.units, 2 * found.units
    while not decides(many):
        few, many = many, 2 * many
        if few > MOST:
            return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if decides(middle) else (middle, many)
    digits = 10 ** max(0, len(str(many)) - 2)
    return -(-many // digits) * digits


def verdict(gates: list[Gate]) -> str:
    """One conclusion from the gates that apply to a map: the first line that holds.

    NOT        a FATAL gate fails
    UNKNOWN    a FATAL gate was not measured
    UNDECIDED  a FATAL gate is undecided
    PARTLY     any gate fails, or a NEEDED one was not measured: no more images would change it
    UNDECIDED  a NEEDED gate is undecided
    EXPLAINS   otherwise: all NEEDED gates pass and nothing fails. The gates local, stable and
               class_specific may be undecided or not measured, and then have to be named with it.
    """
    outcome = {each.gate: each.outcome for each in gates}
    fatal = {outcome[name] for name in FATAL if name in outcome}
    needed = {outcome[name] for name in NEEDED if name in outcome}
    for found, conclusion in ((FAIL, NOT), (UNKNOWN, UNKNOWN), (UNDECIDED, UNDECIDED)):
        if found in fatal:
            return conclusion
    if FAIL in outcome.values() or UNKNOWN in needed:
        return PARTLY
    return UNDECIDED if UNDECIDED in needed else EXPLAINS


def undecided(gates: list[Gate]) -> list[str]:
    """The gates that more images could decide."""
    return [each.gate for each in gates if each.outcome == UNDECIDED]
