"""params.yaml with other structure, values or bytes: the values that DVC reads, or one line."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from dvc.utils.serialize import load_yaml
from ruamel.yaml import YAML

from abn.config import params
from abn.runtime.errors import ParamsError
from abn.runtime.redaction import redacted
from tests.fuzz._bytes import damaged

FILE = Path(__file__).parents[2] / "params.yaml"

# In YAML, to be put in the place of a value.
VALUES = [
    *("null", "~", "true", "false", "yes", "no", "on", "0", "-0", "1", "-1", "2", "1000000000"),
    *("1e9", "0.5", "1.0", "-0.0", "1e-9", "1e308", "1e309", "-1e309", ".inf", "-.inf", ".nan"),
    *("0x10", "010", "0o17", "0b1", "1_000", "1:30", "+1", "1.", ".5", "9" * 50, "0x" + "f" * 1900),
    *("''", "' '", "a", "resnet18", "images", "..", "../x", "/etc/passwd", "a/../b", "s3://a/b"),
    *(
        "https://me:secret@example.org/a?b",
        "'a'",
        '"\\u0000"',
        '"\\x1b[2J"',
        '"\\ud800"',
        '"\\U0001f600"',
    ),
    *(
        '"\\n"',
        "é",
        "\u202e",
        "'%s{0}$(id)'",
        "2001-01-01",
        "2001-01-01 10:00:00 -99",
        "2001-02-30",
    ),
    *(
        "[]",
        "{}",
        "[1]",
        "[64]",
        "[0.5]",
        "[1, 2, 3]",
        "[[64]]",
        "[null]",
        "{a: 1}",
        "{1: a}",
        "[.nan]",
    ),
    *("{? [a] : 1}", "{null: 1}", "[1, true, a]", "&a 1", "*a", "!!int '1'", "!!python/none", "<<"),
    *(
        "=",
        "? a",
        "- 1",
        "|",
        ">",
        "@",
        "`",
        "%",
        "'",
        '"',
        "[",
        "{",
        "]",
        "}",
        ",",
        ": ",
        "#",
        "!",
    ),
]
KEYS = [
    *(
        "arch",
        "seed",
        "data",
        "train",
        "lr",
        "flip",
        "Train",
        "epoch",
        "''",
        "' '",
        "0",
        "1.5",
        "null",
    ),
    *(
        "true",
        "[a, b]",
        "{a: 1}",
        '"\\x1b[2J"',
        '"a\\nb"',
        "'<<'",
        "<<",
        "=",
        "https://me:secret@h/",
    ),
    *("é", "? a", "&a b", "!!str c", "k" * 300, "__class__", "model_config", "self", "2001-01-01"),
]


Tree = list[tuple[str, Any]]  # keys and values: a Tree, or a text of YAML


def example(draws: random.Random, folder: Path) -> None:
    path = folder / "params.yaml"
    text = _dumped(_grown(draws)) if draws.random() < 0.7 else FILE.read_text()
    content = text.encode("utf-8", "surrogatepass")
    path.write_bytes(damaged(content, draws, 4) if draws.random() < 0.5 else content)
    try:
        found = params.load(path)
    except ParamsError as error:
        line = error.line()
        assert line.startswith("error[PARAMS] ") and line.isprintable() and len(line) < 1000, line
        assert "secret" not in line, line
    else:
        values = load_yaml(path)
        values["data"]["url"] = values["data"]["url"] and redacted(values["data"]["url"])
        assert found.model_dump(mode="json") == values


@cache
def _values() -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(FILE)


def _tree(values: dict[str, Any]) -> Tree:
    def item(value: Any) -> Any:
        return _tree(value) if isinstance(value, dict) else json.dumps(value)

    return [(key, item(value)) for key, value in values.items()]


def _grown(draws: random.Random) -> Tree:
    """The committed params with a few faults in their structure."""
    whole = _tree(_values())
    for _ in range(draws.randint(1, 3)):
        section = _section(whole, draws)
        if not section:
            continue
        place = draws.randrange(len(section))
        key, value = section[place]
        other = draws.choice(VALUES)
        new = [
            *([(key, other)], [(key, other)], [(key, other)]),
            *([], [(draws.choice(KEYS), value)], [(key, value), (key, other)]),
            [(key, _section(_tree(_values()), draws))],
        ]
        section[place : place + 1] = draws.choice(new)
    return whole


def _section(whole: Tree, draws: random.Random) -> Tree:
    """The whole or a mapping in it."""
    sections = [whole]
    for section in sections:
        sections += [value for _, value in section if isinstance(value, list)]
    return draws.choice(sections)


def _dumped(tree: Tree, indent: str = "") -> str:
    lines = []
    for key, value in tree:
        below = isinstance(value, list)
        lines.append(f"{indent}{key}:" + ("" if below else f" {value}") + "\n")
        lines += [_dumped(value, f"{indent}  ")] if below else []
    return "".join(lines)
