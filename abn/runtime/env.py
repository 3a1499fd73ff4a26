"""What a process takes from its environment: numbers, words, and UTF-8; none changes a result."""

import locale
import math
import os
import sys

from abn.runtime.errors import ParamsError


def number(name: str, default: float, least: float = 0.0) -> float:
    """The variable `name`, or `default` where it is not set; ParamsError if it is below `least`."""
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= least):
        raise ParamsError("wrong value", f"{name}={text}", f"use a number of at least {least:g}")
    return value


def ensure_utf8() -> None:
    """Start this process again in Python's UTF-8 mode where the locale has another encoding.

    Else the names of files, the pipes of a child and the console would be in that encoding, and a
    class in the folder `Käfer` would be `KÃ¤fer` in every result. The process keeps its number;
    those that it starts inherit the mode (PEP 540).
    """
    if not sys.flags.utf8_mode and locale.getencoding().lower() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def word(name: str, *known: str) -> str:
    """The variable `name`, one of the words `known` in small letters, or "" where it is not set.

    ParamsError for any other word.
    """
    text = os.environ.get(name, "")
    if text and text.lower() not in known:
        words = " or ".join(known)
        raise ParamsError("wrong value", f"{name}={text}", f"use {words}, or leave it out")
    return text.lower()
