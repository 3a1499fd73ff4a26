"""Texts in a CSV that a spreadsheet would run as a formula get a ' before them."""

import re
from typing import TypeVar

T = TypeVar("T")

FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠]")  # noqa: RUF001  # what a spreadsheet may run


def escaped(value: T) -> T | str:
    """`value`, with a ' before it where it is a text that a spreadsheet may run."""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def plain(value: T) -> T | str:
    """The value that `escaped` was given."""
    is_escaped = isinstance(value, str) and value.startswith("'") and FORMULA.match(value)
    return value[1:] if is_escaped else value  # type: ignore[index]
