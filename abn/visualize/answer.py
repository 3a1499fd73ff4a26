"""What the report says first: whether the attention map explains, and which map to show."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from abn.visualize.tiles import ATTENTION, map_name

Row = Mapping[str, Any]  # of the table of gates
SHORT = {  # of each verdict: the first words, and what they claim of the attention map
    "explains": ("Yes, by these tests", "The attention map explains the decisions"),
    "partly explains": ("Partly", "The attention map explains the decisions only in part"),
    "does not explain": ("No, by these tests", "The attention map does not explain the decisions"),
    "undecided": ("Undecided", "These images cannot decide whether the attention map explains"),
}
AT_MOST_PARTLY = (
    "The attention map explains in part or not at all; these images cannot decide which"
)
UNKNOWN = ("Not measured", "Whether the attention map explains the decisions was not measured")


def by_map(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """The gates of every map, the attention's first: map -> gate -> row of the table."""
    table: dict[str, dict[str, Row]] = {}
    for row in rows:
        table.setdefault(row["map"], {})[row["gate"]] = row
    return table


def first_sentence(explain: Row, gates: Sequence[Row]) -> tuple[str, str]:
    """The answer in a word or two, and the sentence that says it."""
    answer, claim = SHORT.get(explain.get("verdict", ""), UNKNOWN)
    if explain.get("verdict") == "undecided" and _named(gates, "fail"):
        claim = AT_MOST_PARTLY
    reasons = "; ".join(_reasons(gates))
    return answer, f"{claim}: {reasons}." if reasons else f"{claim}."


def advice(explain: Row, maps: Mapping[str, Mapping[str, Row]], drawn: str) -> str:
    """Which map to show, and which the pictures here show; "" where nothing was measured.

    `maps` is that of `by_map`.
    """
    best = explain.get("recommended")
    if best is None or explain.get("verdict") == "not measured":
        return ""
    if best == "none":
        return f"No map passes all its tests. {_drawn(drawn)}"
    if best == ATTENTION:
        return f"It is the map to show. {_drawn(drawn) if drawn != ATTENTION else ''}".rstrip()
    passed = _named(maps.get(best, {}).values(), "pass")
    proof = f": it passes {_list(passed)}" if passed else ""
    remedy = f" {_drawn(drawn)} Set visualize.map to recommended to draw {map_name(best)}."
    claim = f"Show {map_name(best)} instead"
    if explain.get("verdict") == "explains":
        claim = f"{map_name(best)} ranks what decides better"
    return f"{claim}{proof}.{'' if best == drawn else remedy}"


def _reasons(gates: Sequence[Row]) -> Iterator[str]:
    """What passes, fails and is undecided, by name; the first is only counted."""
    passed, failed, open_ = (_named(gates, word) for word in ("pass", "fail", "undecided"))
    if measured := len(passed) + len(failed) + len(open_):
        yield f"it passes {len(passed)} of the {measured} tests that were measured"
    if failed:
        yield f"it fails {_list(failed)}"
    if open_:
        yield f"undecided {_verb(open_)} {_list(open_)}{_images(gates)}"


def _images(gates: Sequence[Row]) -> str:
    """How many images would decide all that is undecided, where that is known."""
    needed = [row.get("images_needed") for row in gates if row["outcome"] == "undecided"]
    known = [int(count) for count in needed if count is not None]
    if not known or len(known) < len(needed):
        return ""
    return f" (about {max(known):,} images would decide)"


def _named(gates: Iterable[Row], outcome: str) -> list[str]:
    return [row["gate"].replace("_", " ") for row in gates if row["outcome"] == outcome]


def _verb(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _list(names: Sequence[str]) -> str:
    """Names with commas and an `and`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _drawn(name: str) -> str:
    what = "the attention map" if name == ATTENTION else map_name(name)
    return f"The pictures here show {what}."
