"""Names of classes in other text: direction, and width."""

import pytest

from abn.visualize.names import CLOSE, OPEN, apart, cut, cut_left, mark, path, shorten, shown, start

ARABIC, HEBREW = "خنفساء", "חיפושית (a)"


def test_only_a_name_that_runs_from_right_to_left_is_isolated() -> None:
    pair = f"{mark('disc')} → {mark(ARABIC)}"
    assert shown(pair) == f"disc → {OPEN}{ARABIC}{CLOSE}"
    assert (apart("カブトムシ"), apart(HEBREW)) == ("カブトムシ", f"{OPEN}{HEBREW}{CLOSE}")


def test_the_longest_name_is_cut_and_the_words_around_it_stay() -> None:
    text = f"for {mark('a' * 30)}: {mark('ring')}, 61 %"
    assert cut(text, lambda line: len(line) <= 24) == f"for {'a' * 7}…: ring, 61 %"
    assert cut(text, lambda line: len(line) <= 99) == shown(text)
    assert cut(text, lambda line: False) == "for …: …, 61 %"
    assert cut("no name at all", lambda line: False) == "no name at all"


def test_of_a_file_the_end_of_its_name_stays() -> None:
    name = "val/cat/IMG 1.jpg"
    assert cut_left(name, lambda line: len(line) <= 10) == "…IMG 1.jpg"
    assert cut_left(name, lambda line: len(line) <= 17) == name
    assert (cut_left(name, lambda line: False), cut_left("", lambda line: False)) == ("…", "")


def test_a_folder_that_runs_from_right_to_left_stays_left_of_its_file() -> None:
    assert path(f"val/{ARABIC}/7.png") == f"val/{OPEN}{ARABIC}{CLOSE}/7.png"
    assert path(f"{ARABIC}/7.png") == f"{OPEN}{ARABIC}{CLOSE}/7.png"  # 7.png is outside


def test_a_cut_name_that_runs_from_right_to_left_stays_isolated() -> None:
    assert cut(mark(ARABIC), lambda line: len(line) <= 6) == f"{OPEN}{ARABIC[:3]}…{CLOSE}"


@pytest.mark.parametrize(
    ("name", "length", "expected"),
    [
        ("disc", 4, "disc"),
        ("disc", 3, "di…"),
        ("big disc", 5, "big…"),  # no space before the ellipsis
        ("भृंग", 3, "…"),  # the first letter has two marks: it would need all but one
        ("भृंग", 4, "भृंग"),
        ("e\N{COMBINING ACUTE ACCENT}te", 3, "e\N{COMBINING ACUTE ACCENT}…"),
        ("e\N{COMBINING ACUTE ACCENT}te", 2, "…"),
    ],
)
def test_a_name_is_cut_between_letters_and_never_before_a_mark(name, length, expected) -> None:
    assert shorten(name, length) == expected


def test_the_start_of_a_name_is_whole_letters() -> None:
    assert start("ภาษา", 9) == "ภาษา" and start("ng\N{COMBINING TILDE}a", 2) == "n"
