"""params.yaml is read as DVC reads it, or refused in one line."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import load_yaml

from abn.config import yaml_file
from abn.runtime.errors import ParamsError

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]

# What other readers of YAML take for something else, or what is easily mistaken.
SCALARS = [
    *("1e-3", "1E5", "1.", ".5", "-.5e+2", "+1", "010", "0o10", "0x10", "0b11", "1_000", "1__0"),
    *("0_", "1:30", "1:30.5", "12e03", ".inf", "-.INF", ".nan", "NaN", "inf", "~", "null", "Null"),
    *("", "no", "yes", "on", "off", "y", "n", "True", "TRUE", "tRue", "2001-01-01", "2001-1-1"),
    *(
        "2001-01-01 10:20:30.5Z",
        "2001-12-14t21:59:43.10-05:00",
        "'1'",
        '"\\u0041\\x41\\n"',
        "'a''b'",
    ),
    *("a: b", "[1, 2", "{a: 1}", "[a, [b]]", "a #b", "a#b", "- b", "| \n  x\n  y", "> \n  x\n  y"),
    *(
        "?",
        "? a",
        "-",
        "--- a",
        "...",
        "@a",
        "`a",
        "%a",
        "a\tb",
        "\ta",
        "é",
        "\U0001f600",
        "\u2028",
    ),
    *("\x7f", "\x00", "\x1b", "\ufeff", '"\\ud800"', "9" * 100, "0x" + "f" * 100, "1" * 1999),
    *("&a 1", "*a", "!!int '1'", "!a 1", "=", "-_", "._", "0x", "2001-02-30", "9999-12-31T23-23"),
]


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ParamsError) as caught:
        yaml_file.read(path)
    assert caught.value.line().isprintable()
    return str(caught.value)


def same(one: Any, other: Any) -> bool:
    """Whether both are of equal value and type; by repr, NaN is itself, and 1 is not True."""
    return repr(one) == repr(other)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_committed_files_are_read_as_dvc_reads_them(path: Path) -> None:
    assert same(yaml_file.read(path), load_yaml(path))


@pytest.mark.parametrize("scalar", SCALARS, ids=ascii)
def test_a_tricky_value_is_read_as_dvc_reads_it_or_refused(tmp_path: Path, scalar: str) -> None:
    path = written(tmp_path, f"a: {scalar}\n")
    try:
        found = yaml_file.read(path)
    except ParamsError as error:
        assert error.line().isprintable()
    else:
        assert same(found, load_yaml(path))


@pytest.mark.parametrize(
    "text, value",
    [
        *[("1e-3", 0.001), ("010", 10), ("1_000", 1000), ("0x10", 16), (".inf", float("inf"))],
        *[("no", "no"), ("on", "on"), ("y", "y"), ("1:30", "1:30"), ("~", None)],
    ],
)
def test_yaml_is_version_1_2(tmp_path: Path, text: str, value: object) -> None:
    assert same(yaml_file.read(written(tmp_path, f"a: {text}")), {"a": value})


def test_lines_may_end_as_on_any_system(tmp_path: Path) -> None:
    for end in ("\n", "\r\n", "\r"):
        path = written(tmp_path, end.join(["a: |", " x", " y", "b: 'c", " d'", ""]))
        assert yaml_file.read(path) == {"a": "x\ny\n", "b": "c d"} == load_yaml(path)


def test_a_mark_of_the_byte_order_is_no_fault(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbfa: 1\n")
    assert yaml_file.read(path) == {"a": 1} == load_yaml(path)


@pytest.mark.parametrize(
    "text, what",
    [
        ("a: &x 1", "an anchor in line 1"),
        ("b: 1\na: *x", "an alias in line 2"),
        ("<<: {a: 1}", "a merge key in line 1"),
        ("a: !!str 1", "a tag in line 1"),
        ("a: ! 1", "a tag in line 1"),
        ("!!python/object/apply:os.system [id]", "a tag in line 1"),
        ("%YAML 1.1\n---\na: no", "a directive in line 2"),
        ("%TAG ! tag:x:\n---\na: no", "a directive in line 2"),
        ("[" * 30, "nested more than 20 deep in line 1"),
        ("- " * 30, "nested more than 20 deep in line 1"),
        ("{a: " * 30, "nested more than 20 deep in line 1"),
        ("- 1\n" * 2001, "more than 2000 values in line 2000"),
        (f"a:\n b: 0x{'f' * 3000}", "a value of more than 2000 characters in line 2"),
    ],
)
def test_what_no_params_need_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = written(tmp_path, text)
    assert refusal(path) == f"{what}; {path}; write plain values"


def test_a_quoted_merge_key_is_a_text(tmp_path: Path) -> None:
    assert yaml_file.read(written(tmp_path, '"<<": 1')) == {"<<": 1}


def test_a_bomb_of_aliases_does_not_go_off(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    path = written(tmp_path, "\n".join(lines))
    before = time.perf_counter()
    assert refusal(path).startswith("an anchor in line 1")
    assert time.perf_counter() - before < 1  # 10 ** 10 texts would take minutes


@pytest.mark.parametrize(
    "unit", ["[", "- ", "{a: ", "a: ", "1,", "? ", "'", "#\n", "\n", " ", "-\n"]
)
def test_the_longest_file_takes_no_longer(tmp_path: Path, unit: str) -> None:
    path = written(tmp_path, unit * (yaml_file.BYTES // len(unit)))
    before = time.perf_counter()
    try:
        yaml_file.read(path)
    except ParamsError as error:
        assert error.line().isprintable()
    assert time.perf_counter() - before < 5


def test_a_longer_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = written(tmp_path, "a: 1\n")
    os.truncate(path, 1 << 40)  # sparse
    assert refusal(path) == f"over 32768 bytes; {path}; presets/ has complete examples"


def test_a_value_of_a_duplicate_key_is_not_told(tmp_path: Path) -> None:
    path = written(tmp_path, "url: a\nurl: https://me:secret@example.org\n")
    said = refusal(path)
    assert said == f'not valid YAML: found duplicate key "url", line 2; {path}; correct it there'


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    said = refusal(written(tmp_path, "a: é\n".encode(encoding)))
    assert said.startswith(("not UTF-8: byte ", "not valid YAML: "))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert refusal(path) == f"not found; {path}; run from the project's root"
    path.symlink_to("nowhere")
    assert refusal(path).startswith("not found; ")
    path.unlink()
    path.mkdir()
    assert refusal(path).startswith("not a file; ")
    path.rmdir()
    os.mkfifo(path)  # reading it would wait for ever
    assert refusal(path).startswith("not a file; ")


def test_a_file_that_cannot_be_read_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")  # root, who runs the tests, may read all

    path = written(tmp_path, "a: 1")
    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(path) == f"cannot be read: Permission denied; {path}; mend that"
