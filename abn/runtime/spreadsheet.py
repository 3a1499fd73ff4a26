"""Texts in a CSV that a spreadsheet would run as a formula get a ' before them.

Where lists are written with semicolons, as in much of Europe, a spreadsheet splits a CSV at these,
or at tabs, also within the quotes of a CSV that has commas. So what comes after them counts too.
"""

import re
from typing import TypeVar

T = TypeVar("T")

CELL = r"(^|[;\t\r\n])"  # where a cell may begin
FORMULA = r"('*[^\S\t\r\n]*[=+\-@＝＋－＠])"  # noqa: RUF001  # what a spreadsheet may run
RUN = re.compile(CELL + FORMULA)
ESCAPED = re.compile(f"{CELL}'{FORMULA}")


def escaped(value: T) -> T | str:
    """`value`, if it is a text with a ' before each part that a spreadsheet may run."""
    return RUN.sub(r"\1'\2", value) if isinstance(value, str) and RUN.search(value) else value


def plain(value: T) -> T | str:
    """The value that `escaped` was given."""
    is_escaped = isinstance(value, str) and ESCAPED.search(value)
    return ESCAPED.sub(r"\1\2", value) if is_escaped else value  # type: ignore[call-overload]
