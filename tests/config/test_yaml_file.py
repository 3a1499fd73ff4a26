"""YAML is read as DVC reads it, or refused in one line."""

import random
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import YAMLFileCorruptedError, load_yaml, parse_yaml

from abn.config import yaml_file
from abn.runtime.errors import ParamsError

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "params.yaml", ROOT / "dvc.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]

# What YAML 1.1 and 1.2 read differently, or what is easily mistaken, and its value.
SCALARS = [
    *[("on", "on"), ("off", "off"), ("yes", "yes"), ("no", "no"), ("y", "y"), ("tRue", "tRue")],
    *[("true", True), ("False", False), ("TRUE", True), ("~", None), ("null", None), ("", None)],
    *[("1e-3", 0.001), ("1E5", 1e5), ("5e-4", 5e-4), ("1.", 1.0), (".5", 0.5), ("-.5e+2", -50.0)],
    *[("012", 12), ("0o14", 12), ("0x1F", 31), ("-0b11", -3), ("1_000", 1000), ("+1", 1)],
    *[("1:30", "1:30"), ("1:30.5", "1:30.5"), (".5e2", ".5e2"), ("08", 8), ("0b2", "0b2")],
    *[(".inf", float("inf")), ("-.INF", float("-inf")), ("inf", "inf"), ("NaN", "NaN")],
    *[("'1'", "1"), ('"\\u0041\\n"', "A\n"), ("'a''b'", "a'b"), ("a #b", "a"), ("a#b", "a#b")],
    *[("1e999", float("inf")), ("\U0001f600", "\U0001f600"), ("['a:1', 2]", ["a:1", 2])],
]
DATES = ["2001-01-01", "2001-1-1", "2001-01-01 10:20:30.5Z", "2001-12-14t21:59:43.10-05:00"]
TEXTS = [
    *["x: &x {a: 1, b: 2}\ny: {<<: *x, a: 3}\n", "a: 1\n...\n", "--- \na: {b: 1}\n"],
    *["a: |\n x\n y\nb: >-\n 'c\n d'\n", "? a\n: 1\n", "'<<': 1\n", "a: [1,\n 2]\n", "1: a\n"],
]
COLONS = ["a: [b:1, 2]\n", "a: {b: c:1}\n", "a: {b:1}\n", "a: [http://x]\n"]
REFUSED = {
    "a: 1\na: 2": 'not valid YAML: duplicate key "a", line 2; FILE; correct it there',
    "a: {b: 1, c: 2, 'b': 3}": 'not valid YAML: duplicate key "b", line 1; FILE',
    "a: [1": "not valid YAML: expected ',' or ']'",
    "a: 1\n---\nb: 2": "not valid YAML: but found another document, line 2",
    "a: !!python/object/apply:os.system [id]": "not valid YAML: a tag or a directive, line 1",
    "a: !!int '1'": "not valid YAML: a tag or a directive, line 1",
    "%YAML 1.1\n---\na: no": "not valid YAML: a tag or a directive, line 1",
    "a: =": "not valid YAML: could not determine a constructor",
    "a: 2024-13-45": "not valid YAML: month must be in 1..12",
    "a: 0x_": "not valid YAML: invalid literal",
    "a: x\u2028y": "not valid YAML: character 0x2028",
    "a: \0": "not valid YAML: unacceptable character #x0000",
    f"a: 0x{'f' * 5000}": "not valid YAML: a number of 5002 characters",
    "[" * 30_000: "not valid YAML: nested too deep",
    "": "not a mapping of keys to values; FILE; presets/ has complete examples",
    "- a": "not a mapping of keys to values",
}


def same(one: Any, other: Any) -> bool:
    """Of equal value and type, in depth: NaN is itself, and 1 is not True."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return repr(one) == repr(other) or (one == other and type(one).__name__ == "datetime")


def refusal(path: Path) -> str:
    with pytest.raises(ParamsError) as caught:
        yaml_file.read(path)
    assert caught.value.line().isprintable()
    return str(caught.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_committed_files_are_read_as_dvc_reads_them(path: Path) -> None:
    assert same(yaml_file.read(path), load_yaml(path))


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=[ascii(text) for text, _ in SCALARS])
def test_a_scalar_is_read_as_in_yaml_1_2_and_by_dvc(text: str, value: object) -> None:
    assert same(yaml_file.loads(f"a: {text}\n", "x"), {"a": value})
    assert same(parse_yaml(f"a: {text}\n", "x"), {"a": value})


@pytest.mark.parametrize("text", COLONS)
def test_a_colon_in_a_word_without_quotes_is_refused_in_a_list_as_dvc_does(text: str) -> None:
    with pytest.raises(ParamsError, match="a colon in a word without quotes, line 1; x; correct"):
        yaml_file.loads(text, "x")
    with pytest.raises(YAMLFileCorruptedError):
        parse_yaml(text, "x")


@pytest.mark.parametrize("text", [*TEXTS, *(f"a: {date}" for date in DATES)])
def test_a_text_is_read_as_dvc_reads_it(text: str) -> None:
    assert same(yaml_file.loads(text, "x"), parse_yaml(text, "x"))


@pytest.mark.parametrize(
    "pieces",
    [
        list("0123456789_-+.eExob:~nulltrfsyaTRUEFALSEinfINF "),
        [*"a1-{}[],:#'\"|> ", "\n", "\n  ", "a: ", "b: ", "- ", "1e3", "on", "é", "\t", "!", "? "],
    ],
    ids=["scalars", "structures"],
)
def test_random_texts_are_read_as_dvc_reads_them_or_refused(pieces: list[str]) -> None:
    draws, count = random.Random(0), 0
    for _ in range(1500):
        text = "a: " + "".join(draws.choices(pieces, k=draws.randint(1, 9))) + "\n"
        try:
            values = yaml_file.loads(text, "x")
        except ParamsError as error:
            assert error.line().isprintable()
        else:
            count += 1
            assert same(values, parse_yaml(text, "x")), text
    assert count > 100


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:20]))
def test_what_is_not_plain_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode())
    assert refusal(path).startswith(REFUSED[text].replace("FILE", str(path)))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path, end: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + end.join(["a: |", " x", " y", "b: 'c", " d'", ""]).encode())
    assert yaml_file.read(path) == {"a": "x\ny\n", "b": "c d"} == load_yaml(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("a: é\n".encode(encoding))
    assert refusal(path).startswith("not UTF-8: byte ")


def test_what_is_not_a_readable_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "params.yaml"
    assert refusal(path) == f"not found; {path}; run from the project's root"
    path.touch()

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")  # root, who runs the tests, may read all

    monkeypatch.setattr(Path, "read_bytes", refuse)
    message = f"cannot be read: Permission denied; {path}; check the file's permissions"
    assert refusal(path) == message
