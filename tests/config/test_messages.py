"""A fault that pydantic found is one line, with the key, the value and what to do."""

from pathlib import Path
from typing import Any, Self

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from abn.config.messages import Impossible, refusal


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    count: int
    name: str = ""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.name == "taken":
            raise Impossible("name", "take another")
        return self


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    inner: Inner | None
    many: list[int] = []


def refused(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return str(refusal(Path("p.yaml"), Outer, caught.value.errors(include_url=False)))


def test_a_wrong_value_is_shown_with_its_dotted_key() -> None:
    said = refused(inner={"count": "x"})
    assert said == "wrong value; p.yaml: inner.count = 'x'; it should be a valid integer"
    assert refused(inner=None, many=[1, "x"]).startswith("wrong value; p.yaml: many.1 = 'x'; ")


def test_a_missing_key_has_no_value() -> None:
    assert refused(inner={}).startswith("missing; p.yaml: inner.count; add it")


def test_an_unknown_key_comes_first_with_the_nearest_known_one() -> None:
    said = refused(inner={"coumt": 1}, many="x")
    assert said == "unknown key; p.yaml: inner.coumt = 1; did you mean count? (and 2 more)"
    assert refused(inner=None, zzzz=1) == "unknown key; p.yaml: zzzz = 1; remove it"


def test_long_keys_and_values_are_cut() -> None:
    said = refused(inner=None, **{"k" * 99: "v" * 99})
    assert said == f"unknown key; p.yaml: {'k' * 57}... = '{'v' * 56}...; remove it"


def test_a_secret_is_hidden_before_a_value_is_cut() -> None:
    address = f"https://me:{'secret' * 20}@example.org/x"
    for said in (refused(inner=address), refused(inner=None, **{address: [address]})):
        assert "secret" not in said and "https://***@example.org/x" in said


def test_a_key_moves_no_cursor() -> None:
    said = refused(inner=None, **{"a\x1b[2J\nb": "\x1b"})
    assert said == r"unknown key; p.yaml: a\x1b[2J b = '\x1b'; remove it"


def test_an_impossible_value_names_the_key_to_change() -> None:
    said = refused(inner={"count": 1, "name": "taken"})
    assert said == "cannot be; p.yaml: inner.name = 'taken'; take another"
