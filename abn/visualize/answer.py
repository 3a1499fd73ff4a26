"""What the report says first: whether the attention map explains, and which map to show."""

from collections.abc import Iterable, Mapping, Sequence
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
    """The answer in a word or two, and the sentence that says it.

    No test is called by its name here: the reader has not met it yet.
    """
    answer, claim = SHORT.get(explain.get("verdict", ""), UNKNOWN)
    if explain.get("verdict") == "undecided" and _outcomes(gates)[1]:
        claim = AT_MOST_PARTLY
    return answer, f"{claim}.{_reasons(gates)}"


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
    passed, failed, open_ = _outcomes(maps.get(best, {}).values())
    measured = len(passed) + len(failed) + len(open_)
    proof = f": it passes {len(passed)} of the {measured} tests measured for it" if passed else ""
    remedy = f" {_drawn(drawn)} Set visualize.map to recommended to draw {map_name(best)}."
    claim = f"Show {map_name(best)} instead"
    if explain.get("verdict") == "explains":
        claim = f"{map_name(best)} ranks what decides better"
    return f"{claim}{proof}.{'' if best == drawn else remedy}"


def _reasons(gates: Iterable[Row]) -> str:
    """How many tests it passes, what it fails, and how many are undecided; "" for none."""
    passed, failed, open_ = _outcomes(gates)
    measured = len(passed) + len(failed) + len(open_)
    parts = [f"It passes {len(passed)} of the {measured} tests that were measured"]
    if failed:
        questions = _list([f"“{row['question']}”" for row in failed])
        parts.append(f"it fails {len(failed)}: {questions}")
    if open_:
        parts.append(f"{len(open_)} {'is' if len(open_) == 1 else 'are'} undecided{_images(open_)}")
    return f" {'; '.join(parts)}." if measured else ""


def _images(undecided: Iterable[Row]) -> str:
    """How many images would decide all that is undecided, where that is known."""
    needed = [row.get("images_needed") for row in undecided]
    if None in needed:
        return ""
    return (
        f" (about {max(int(count) for count in needed if count is not None):,} images would decide)"
    )


def _outcomes(gates: Iterable[Row]) -> tuple[list[Row], list[Row], list[Row]]:
    """The gates that pass, that fail, and that are undecided."""
    rows = list(gates)
    passed, failed, open_ = (
        [row for row in rows if row["outcome"] == word] for word in ("pass", "fail", "undecided")
    )
    return passed, failed, open_


def _list(names: Sequence[str]) -> str:
    """Names with commas and an `and`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _drawn(name: str) -> str:
    what = "the attention map" if name == ATTENTION else map_name(name)
    return f"The pictures here show {what}."
