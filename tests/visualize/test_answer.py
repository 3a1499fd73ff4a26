"""The first words of the report, for every verdict and recommendation."""

import pytest

from abn.visualize.answer import advice, by_map, first_sentence

GATES = [
    {"gate": "live", "outcome": "pass"},
    {"gate": "causal", "outcome": "fail", "question": "Does it act?"},
    {"gate": "faithful", "outcome": "undecided", "images_needed": 350.0},
    {"gate": "faithful_centre", "outcome": "undecided", "images_needed": 1200.0},
    {"gate": "local", "outcome": "fail", "question": "Does it find?"},
    {"gate": "stable", "outcome": "not measured"},
    {"gate": "class_specific", "outcome": "by design"},
]


@pytest.mark.parametrize(
    ("verdict", "answer", "claim"),
    [
        ("explains", "Yes, by these tests", "The attention map explains the decisions. "),
        ("partly explains", "Partly", "The attention map explains the decisions only in part. "),
        (
            "does not explain",
            "No, by these tests",
            "The attention map does not explain the decisions. ",
        ),
        (
            "undecided",
            "Undecided",
            "The attention map explains in part or not at all; these images ",
        ),
        ("not measured", "Not measured", "Whether the attention map explains the decisions was "),
    ],
)
def test_each_verdict_is_a_plain_sentence(verdict: str, answer: str, claim: str) -> None:
    first, sentence = first_sentence({"verdict": verdict}, GATES)
    assert first == answer and sentence.startswith(claim)


def test_the_sentence_asks_what_fails_and_counts_what_is_undecided_with_the_images_needed() -> None:
    _, sentence = first_sentence({"verdict": "does not explain"}, GATES)
    assert sentence == (
        "The attention map does not explain the decisions. It passes 1 of the 5 tests that were "
        "measured; it fails 2: “Does it act?” and “Does it find?”; 2 are undecided "
        "(about 1,200 images would decide)."
    )


def test_where_nothing_fails_an_open_verdict_is_fully_open() -> None:
    _, sentence = first_sentence({"verdict": "undecided"}, GATES[2:3])
    assert sentence.startswith("These images cannot decide whether the attention map explains")


def test_where_one_number_is_unknown_no_number_of_images_is_promised() -> None:
    gates = [*GATES[2:3], {"gate": "local", "outcome": "undecided", "images_needed": None}]
    assert "would decide" not in first_sentence({"verdict": "undecided"}, gates)[1]
    assert (
        "; 1 is undecided (about 350 images"
        in first_sentence({"verdict": "undecided"}, gates[:1])[1]
    )


def test_without_gates_the_sentence_is_the_claim_alone() -> None:
    expected = "Whether the attention map explains the decisions was not measured."
    assert first_sentence({}, []) == ("Not measured", expected)


ROWS = [
    {"map": "attention", "gate": "live", "outcome": "fail"},
    {"map": "att_cam", "gate": "faithful", "outcome": "pass"},
    {"map": "att_cam", "gate": "faithful_edges", "outcome": "pass"},
    {"map": "att_cam", "gate": "stable", "outcome": "undecided"},
    {"map": "att_cam", "gate": "local", "outcome": "not measured"},
]


@pytest.mark.parametrize(
    ("best", "drawn", "expected"),
    [
        ("attention", "attention", "It is the map to show."),
        ("attention", "gradcam", "It is the map to show. The pictures here show Grad-CAM."),
        ("att_cam", "att_cam", "Show Att-CAM instead: it passes 2 of the 3 tests measured for it."),
        (
            "att_cam",
            "attention",
            "Show Att-CAM instead: it passes 2 of the 3 tests measured for it. The pictures here "
            "show the attention map. Set visualize.map to recommended to draw Att-CAM.",
        ),
        (
            "none",
            "attention",
            "No map passes all its tests. The pictures here show the attention map.",
        ),
    ],
)
def test_the_map_to_show_is_named_with_what_it_passes(best: str, drawn: str, expected: str) -> None:
    assert advice({"recommended": best}, by_map(ROWS), drawn) == expected


def test_a_map_that_explains_is_not_replaced_but_a_better_one_is_named() -> None:
    explain = {"recommended": "att_cam", "verdict": "explains"}
    expected = "Att-CAM ranks what decides better: it passes 2 of the 3 tests measured for it."
    assert advice(explain, by_map(ROWS), "att_cam") == expected


def test_nothing_is_advised_where_nothing_was_recommended() -> None:
    assert advice({}, {}, "attention") == ""
    unknown = {"recommended": "none", "verdict": "not measured"}
    assert advice(unknown, by_map(ROWS), "attention") == ""


def test_gates_are_sorted_by_map_in_the_tables_order() -> None:
    table = by_map(ROWS)
    assert list(table) == ["attention", "att_cam"]
    assert list(table["att_cam"]) == ["faithful", "faithful_edges", "stable", "local"]
