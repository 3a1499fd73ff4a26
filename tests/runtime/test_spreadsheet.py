"""Texts that a spreadsheet would run are escaped, and come back as they were."""

import pytest

from abn.runtime.spreadsheet import escaped, plain


@pytest.mark.parametrize("text", ["=1+1", "-x", "@a", "+a", " =b", "'=c"])
def test_a_formula_gets_a_quote_before_it_and_loses_it_again(text: str) -> None:
    assert escaped(text) == f"'{text}"
    assert plain(escaped(text)) == text


SPLIT = {
    "cat;=1+1": "cat;'=1+1",
    "=a;-b\t@c": "'=a;'-b\t'@c",
    "a\t=b": "a\t'=b",
    "\t=b": "\t'=b",
    "a; =b": "a;' =b",
    "a;'=b": "a;''=b",
    "a\n=b": "a\n'=b",
    ";=": ";'=",
}


@pytest.mark.parametrize("text", SPLIT)
def test_what_begins_a_cell_where_a_spreadsheet_splits_at_semicolons_or_tabs_too(text: str) -> None:
    assert escaped(text) == SPLIT[text]
    assert plain(escaped(text)) == text


@pytest.mark.parametrize("value", ["cat", "a;b", "a\tb=c", "a=b", "'quoted'", -1.5, None])
def test_everything_else_stays_as_it_is(value: object) -> None:
    assert escaped(value) is value
    assert plain(value) is value
