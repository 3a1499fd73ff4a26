"""What pydantic finds wrong is one line, with the key, the value and what to do."""

from pathlib import Path
from typing import Any, Self

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from abn.config.messages import InvalidCombination, params_error


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    count: int
    name: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name == "taken":
            raise InvalidCombination("name", "take another")
        return self


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    inner: Inner | None
    many: list[int] = []


def message(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return str(params_error(Path("p.yaml"), Outer, caught.value.errors(include_url=False)))


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"inner": {"count": "x"}},
            "wrong value; p.yaml: inner.count = 'x'; it should be a valid integer",
        ),
        (
            {"inner": None, "many": [1, "x"]},
            "wrong value; p.yaml: many.1 = 'x'; it should be a valid integer",
        ),
        (
            {"inner": {}},
            "missing; p.yaml: inner.count; add it (presets/ has complete examples)",
        ),
        (
            {"inner": {"coumt": 1}, "many": "x"},
            "unknown key; p.yaml: inner.coumt = 1; did you mean count? (and 2 more)",
        ),
        ({"inner": None, "zzzz": 1}, "unknown key; p.yaml: zzzz = 1; remove it"),
        (
            {"inner": None, "k" * 99: "v" * 99},
            f"unknown key; p.yaml: {'k' * 57}... = '{'v' * 56}...; remove it",
        ),
        (
            {"inner": None, "a\x1b[2J\nb": "\x1b"},
            r"unknown key; p.yaml: a\x1b[2J b = '\x1b'; remove it",
        ),
        (
            {"inner": {"count": 1, "name": "taken"}},
            "invalid combination; p.yaml: inner.name = 'taken'; take another",
        ),
        (
            {"inner": None, "loop": LOOP},
            "unknown key; p.yaml: loop = [[[[[[[...]]]]]]]; remove it",
        ),
    ],
)
def test_a_message_has_the_key_the_value_and_the_remedy(
    values: dict[str, Any], expected: str
) -> None:
    assert message(**values) == expected


def test_a_secret_is_hidden_before_a_value_is_cut() -> None:
    url = f"https://me:{'secret' * 20}@example.org/x"
    for line in (message(inner=url), message(inner=None, **{url: {url: [url]}})):
        assert "secret" not in line and "https://***@example.org/x" in line
