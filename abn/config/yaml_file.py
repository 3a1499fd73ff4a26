"""params.yaml as plain values: YAML 1.2 by the parser that DVC reads it with, less its tricks.

Anchors, aliases, merge keys, tags and directives let a short file mean much, or another thing than
it seems to; no params need them, so they are refused, and so is what is too long or deep to be any.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, Event, ScalarEvent
from ruamel.yaml.nodes import Node

from abn.runtime.errors import ParamsError

BYTES = 32 << 10  # six times the longest preset
VALUES = 2000  # keys count too
LENGTH = 2000  # characters in one of them
DEPTH = 20


def read(path: Path) -> Any:
    """The values in the file at `path`, as DVC reads them; ParamsError where it has none."""
    text = _text(path)
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Plain
    try:
        return yaml.load(text)
    except _Trick as trick:
        raise ParamsError(str(trick), path, "write plain values") from None
    except (YAMLError, ValueError, OverflowError) as error:  # the last two: of numbers and dates
        raise ParamsError(f"not valid YAML: {_problem(error)}", path, "correct it there") from None


def _text(path: Path) -> str:
    if not path.is_file():
        what = "not a file" if path.exists() else "not found"
        raise ParamsError(what, path, "run from the project's root")
    try:
        with path.open("rb") as file:
            content = file.read(BYTES + 1)
    except OSError as error:
        raise ParamsError(f"cannot be read: {error.strerror}", path, "mend that") from None
    if len(content) > BYTES:
        raise ParamsError(f"over {BYTES} bytes", path, "presets/ has complete examples")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"not UTF-8: byte {error.start} is {content[error.start]:#04x}"
        raise ParamsError(what, path, "save it as UTF-8") from None


class _Trick(Exception):
    """More than plain values."""

    def __init__(self, what: str, event: Event) -> None:
        super().__init__(f"{what} in line {event.start_mark.line + 1}")


class _Plain(Composer):
    """Composes no more than scalars, lists and mappings, each written out where it is."""

    values = 0

    def compose_document(self) -> Node | None:
        event = self.parser.peek_event()
        if event.version or event.tags:
            raise _Trick("a directive", event)
        return super().compose_document()

    def compose_node(self, parent: Node | None, index: Any) -> Node:
        event = self.parser.peek_event()
        self.values += 1
        if self.values > VALUES:
            raise _Trick(f"more than {VALUES} values", event)
        if self.depth == DEPTH:
            raise _Trick(f"nested more than {DEPTH} deep", event)
        if trick := _trick(event):
            raise _Trick(trick, event)
        return super().compose_node(parent, index)


def _trick(event: Any) -> str:
    """What is not plain about the beginning of a value; "" if nothing."""
    if isinstance(event, AliasEvent):
        return "an alias"
    if event.anchor is not None:
        return "an anchor"
    if event.tag is not None:
        return "a tag"
    if not isinstance(event, ScalarEvent):
        return ""
    if event.value == "<<" and event.implicit[0]:
        return "a merge key"
    return f"a value of more than {LENGTH} characters" if len(event.value) > LENGTH else ""


def _problem(error: Exception) -> str:
    """What the parser stumbled over, with the line where it knows it."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if not problem or not mark:
        return str(error)
    return f"{problem.partition(' with value ')[0]}, line {mark.line + 1}"  # values may be secret
