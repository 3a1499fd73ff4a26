"""What pydantic finds wrong with a parameter file, as one line: what, key and value, remedy."""

import difflib
import reprlib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from abn.runtime.errors import ParamsError
from abn.runtime.redaction import redacted

LONGEST = 60  # characters of a key or a value
REMOVED = {  # keys of older versions, and what to do
    "visualize.prefix": "remove it: the picture is always outputs/abn_attentions.png",
}


class InvalidCombination(ValueError):
    """Values that are valid alone but not together; `key` is the one to change."""

    def __init__(self, key: str, remedy: str) -> None:
        super().__init__(remedy)
        self.key = key


class _Repr(reprlib.Repr):
    """`repr` that hides passwords and stops early: an alias in YAML can make a list of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlong = self.maxother = LONGEST

    def repr_str(self, x: str, level: int) -> str:
        return repr(redacted(x))


def params_error(path: Path, model: type[BaseModel], errors: list[ErrorDetails]) -> ParamsError:
    """The first of the `errors` of the file `path` as a `model`, and how many more there are."""
    unknown = [error for error in errors if error["type"] == "extra_forbidden"]
    first, more = (unknown or errors)[0], len(errors) - 1  # a typo also leaves its key missing
    location, value = first["loc"], first["input"]
    own = first.get("ctx", {}).get("error")
    if isinstance(own, InvalidCombination):
        location, value = (*location, own.key), value.get(own.key) if value else None
    key = _shorten(".".join(redacted(str(name)) for name in location)) or "the file"
    given = "" if first["type"] == "missing" else f" = {_shorten(_Repr().repr(value))}"
    rest = f" (and {more} more)" if more else ""
    what, remedy = _explain(first, own, model)
    return ParamsError(what, f"{path}: {key}{given}", f"{remedy}{rest}")


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _explain(error: ErrorDetails, own: object, model: type[BaseModel]) -> tuple[str, str]:
    """What is wrong, and the remedy; `own` is the exception of a check of ours, if it was one."""
    if error["type"] == "extra_forbidden":
        if (key := ".".join(map(str, error["loc"]))) in REMOVED:
            return "unknown key", REMOVED[key]
        known = _keys(model, error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return "unknown key", f"did you mean {near[0]}?" if near else "remove it"
    if error["type"] == "missing":
        return "missing", "add it (presets/ has complete examples)"
    what = "invalid combination" if isinstance(own, InvalidCombination) else "wrong value"
    return what, str(own) if own else error["msg"].replace("Input should", "it should")


def _keys(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `location` has."""
    for name in location:
        model = model.model_fields[name].annotation
        model = next((part for part in get_args(model) if part is not None), model)
    return list(model.model_fields)
