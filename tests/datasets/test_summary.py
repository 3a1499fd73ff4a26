"""What was found, said: a line for each class on one screen, and what to do if they are unequal."""

from pathlib import Path

import pytest

from abn.datasets.summary import MOST, Entry, Row, Summary, lines


def row(name: str, train: int) -> Row:
    return Row(name, train, 2, 1, 1, 30, 400)


def test_each_class_has_a_line() -> None:
    head, cat, dog = lines([row("cat", 10), row("dog", 19)])
    assert head.split() == ["class", "train", "val", "masks", "sides", "(pixels)"]
    assert cat.split() == ["cat", "10", "2", "2", "30", "to", "400"]
    assert dog.split() == ["dog", "19", "2", "2", "30", "to", "400"]


def test_unequal_classes_have_a_remedy() -> None:
    assert lines([row("cat", 30), row("dog", 10), row("emu", 20)])[-1] == (
        "unequal classes: cat has 3.0 times the images of dog; unless that is as it will be in "
        "use, train.balance: weights (or sampling)"
    )
    assert not lines([row("cat", 19), row("dog", 10)])[-1].startswith("unequal")


def test_a_thousand_classes_fit_on_one_screen() -> None:
    said = lines([row(f"class{i}", 1000 + i) for i in range(1000)])
    assert len(said) == 1 + MOST + 1
    names = [line.split()[0] for line in said[1:]]
    assert names[:10] == [f"class{i}" for i in range(999, 989, -1)]
    assert names[10] == "..." and said[11] == "  ... 980 classes between these in size"
    assert names[11:] == [f"class{i}" for i in range(9, -1, -1)]


def test_a_long_name_is_cut() -> None:
    assert lines([row("x" * 50, 1), row("b", 1)])[1].split()[0] == "x" * 29 + "..."


def test_wide_letters_take_two_columns_and_accents_none() -> None:
    """A terminal shows 寺 as wide as two Latin letters."""
    cat, temple, long, cafe = lines(
        [row("cat", 1), row("お寺", 1), row("寺" * 20, 1), row("cafe\u0301", 1)]
    )[1:]
    after = cat.removeprefix("  cat" + 29 * " ")
    assert temple == "  お寺" + 28 * " " + after
    assert long == "  " + "寺" * 14 + "... " + after  # 14 * 2 + 3 = 31 of 32 columns
    assert cafe == "  cafe\u0301" + 28 * " " + after


def test_all_classes_are_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(["=a", "b"], tmp_path / "cache")
    summary.note(0, Entry("train", True, (30, 20)))
    summary.note(0, Entry("val", False, (50, 60)))
    summary.note(1, Entry("train", False, (7, 8)))
    summary.note(1, Entry("val", True, (9, 10)))
    summary.say()
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert (tmp_path / "cache/found.csv").read_text("utf-8").splitlines() == [
        "class,train,val,train_masks,val_masks,smallest_side,largest_side",
        "'=a,1,1,1,0,20,60",
        "b,1,1,0,1,7,10",
    ]
