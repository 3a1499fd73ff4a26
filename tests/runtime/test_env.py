"""Numbers from the environment, or one line that says what to give; UTF-8 in every locale."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from abn.runtime import env
from abn.runtime.errors import ParamsError


@pytest.mark.parametrize(("text", "value"), [("7", 7.0), ("0.5", 0.5), ("", 3.0), (None, 3.0)])
def test_a_number_is_read_and_unset_is_the_default(
    monkeypatch: pytest.MonkeyPatch, text: str | None, value: float
) -> None:
    monkeypatch.delenv("ABN_X", raising=False)
    if text is not None:
        monkeypatch.setenv("ABN_X", text)
    assert env.number("ABN_X", 3.0) == value


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf", "0.5"])
def test_anything_else_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ABN_X", text)
    with pytest.raises(
        ParamsError, match=rf"^wrong value; ABN_X={text}; use a number of at least 1$"
    ):
        env.number("ABN_X", 3.0, least=1)


SAYS = """
import os, subprocess, sys
from abn.runtime import env
number = os.getpid()
env.ensure_utf8()
words = [sys.executable, "-c", "import sys; print(sys.getfilesystemencoding())"]
child = subprocess.run(words, capture_output=True, encoding="utf-8").stdout.strip()
print(os.listdir(sys.argv[1]), sys.stdout.encoding, child, os.getpid())
"""


@pytest.mark.parametrize("more", [{}, {"PYTHONUTF8": "0"}])
def test_in_an_ascii_locale_names_of_files_the_console_and_children_are_utf8(
    tmp_path: Path, more: dict[str, str]
) -> None:
    (tmp_path / "Käfer").touch()
    ascii_locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(Path.cwd())} | more
    words = [sys.executable, "-c", SAYS, str(tmp_path)]
    with subprocess.Popen(
        words, env=os.environ | ascii_locale, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.communicate()[0].strip() == f"['Käfer'] utf-8 utf-8 {process.pid}"


@pytest.mark.parametrize(("text", "word"), [("never", "never"), ("NEVER", "never"), ("", "")])
def test_a_word_is_read_in_any_case(monkeypatch: pytest.MonkeyPatch, text: str, word: str) -> None:
    monkeypatch.setenv("ABN_X", text)
    assert env.word("ABN_X", "never", "ever") == word
    monkeypatch.delenv("ABN_X")
    assert env.word("ABN_X", "never") == ""


@pytest.mark.parametrize("text", ["nver", "0", "no", "never ", " "])
def test_an_unknown_word_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ABN_X", text)
    with pytest.raises(ParamsError) as caught:
        env.word("ABN_X", "never", "ever")
    assert str(caught.value).startswith("wrong value; ABN_X=")
    assert str(caught.value).endswith("; use never or ever, or leave it out")
