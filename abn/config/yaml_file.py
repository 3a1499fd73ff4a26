"""YAML files read as DVC reads them: YAML 1.2, where `on` is a word and `1e-3` a number.

PyYAML reads YAML 1.1 and keeps the last of two equal keys. This loader takes numbers and booleans
as YAML 1.2 has them (with the underscores that DVC's parser allows) and refuses a key that comes
twice, and tags and directives, which change what a value means.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.scanner import ScannerError

from abn.runtime.errors import ParamsError

LONGEST_NUMBER = 1000  # characters of an integer; Python refuses to print much longer ones
BASES = {"0b": 2, "0o": 8, "0x": 16}
SCALARS = {  # YAML 1.2; PyYAML's own patterns of these are YAML 1.1
    "bool": ("tTfF", r"true|True|TRUE|false|False|FALSE"),
    "float": (
        "-+.0123456789",
        r"[-+]?[0-9][0-9_]*(\.[0-9_]*([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
        r"|[-+]?\.[0-9_]+([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    ),
    "int": ("-+0123456789", r"[-+]?(0b[01_]+|0o?[0-7_]+|[0-9_]+|0x[0-9a-fA-F_]+)"),
}


def read(path: Path) -> dict[str, Any]:
    """The mapping in the file `path`; ParamsError for a file that is missing or holds none."""
    if not path.is_file():
        raise ParamsError("not found", path, "run from the project's root")
    try:
        return loads(path.read_bytes().decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        what = f"not UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        raise ParamsError(what, path, "save it as UTF-8") from None
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise ParamsError(what, path, "check the file's permissions") from None


def loads(text: str, name: object) -> dict[str, Any]:
    """The mapping that `text` spells; `name` says in errors where the text is from."""
    try:
        if odd := re.search("[\x85\u2028\u2029]", text):  # line ends in YAML 1.1 only
            raise ValueError(f"character {ord(odd[0]):#06x}")
        values = yaml.load(text, Loader=_Loader)  # noqa: S506  # a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ParamsError(f"not valid YAML: {_problem(error)}", name, "correct it there") from None
    if not isinstance(values, dict):
        raise ParamsError("not a mapping of keys to values", name, "presets/ has complete examples")
    return values


class _Loader(yaml.SafeLoader):
    """Plain YAML 1.2 values."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as PyYAML declares it
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(tuple(SCALARS))]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def _refuse(self) -> None:
        raise ScannerError(None, None, "a tag or a directive", self.get_mark())

    fetch_tag = fetch_directive = _refuse

    def scan_plain(self) -> yaml.ScalarToken:
        """A word without quotes; in a list or a mapping on one line DVC takes none with a colon."""
        token = super().scan_plain()
        if self.flow_level and ":" in token.value:
            raise ScannerError(None, None, "a colon in a word without quotes", token.start_mark)
        return token

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if (spelling := (key.tag, str(key.value))) in keys:
                raise ScannerError(None, None, f'duplicate key "{key.value}"', key.start_mark)
            keys.add(spelling)
        return node

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = node.value.replace("_", "")
        if len(text) > LONGEST_NUMBER:
            raise ValueError(f"a number of {len(text)} characters")
        return int(text, BASES.get(text.lstrip("-+")[:2], 10))


for _tag, (_first, _pattern) in SCALARS.items():
    _resolver = re.compile(rf"(?:{_pattern})\Z")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _resolver, list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_int)


def _problem(error: Exception) -> str:
    """What is wrong and in which line, without the value, which may be secret."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    return f"{problem}, line {mark.line + 1}" if problem and mark else str(error)
