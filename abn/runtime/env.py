"""Numbers and words from environment variables: how a result is made, never what it is."""

import math
import os

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


def word(name: str, *known: str) -> str:
    """The variable `name`, one of the words `known` in small letters, or "" where it is not set.

    ParamsError for any other word.
    """
    text = os.environ.get(name, "")
    if text and text.lower() not in known:
        words = " or ".join(known)
        raise ParamsError("wrong value", f"{name}={text}", f"use {words}, or leave it out")
    return text.lower()
