"""What pydantic found wrong with a file of params, as one line: what, key and value, remedy."""

import difflib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from abn.runtime import redaction
from abn.runtime.errors import ParamsError

LONGEST = 60  # characters of a key or a value


class Impossible(ValueError):
    """A combination of values that cannot be; `key` is the one to change."""

    def __init__(self, key: str, remedy: str) -> None:
        super().__init__(remedy)
        self.key = key


def refusal(path: Path, model: type[BaseModel], errors: list[ErrorDetails]) -> ParamsError:
    """The first of the `errors` of the file `path` as a `model`, and how many more there are."""
    unknown = [error for error in errors if error["type"] == "extra_forbidden"]
    first, more = (unknown or errors)[0], len(errors) - 1  # a typo also leaves its key missing
    location, value = first["loc"], first["input"]
    own = first.get("ctx", {}).get("error")
    if isinstance(own, Impossible):
        location, value = (*location, own.key), value.get(own.key) if value else None
    key = _short(".".join(redaction.redacted(str(name)) for name in location)) or "the file"
    shown = "" if first["type"] == "missing" else f" = {_short(repr(redaction.within(value)))}"
    rest = f" (and {more} more)" if more else ""
    what, remedy = _judged(first, own, model)
    return ParamsError(what, f"{path}: {key}{shown}", f"{remedy}{rest}")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _judged(error: ErrorDetails, own: object, model: type[BaseModel]) -> tuple[str, str]:
    """What is wrong, and the remedy."""
    if error["type"] == "extra_forbidden":
        known = _keys(model, error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return "unknown key", f"did you mean {near[0]}?" if near else "remove it"
    if error["type"] == "missing":
        return "missing", "add it (presets/ has complete examples)"
    if own:
        return "cannot be", str(own)
    return "wrong value", error["msg"].replace("Input should", "it should")


def _keys(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `location` has."""
    for name in location:
        model = model.model_fields[name].annotation
        model = next((part for part in get_args(model) if part is not None), model)
    return list(model.model_fields)
