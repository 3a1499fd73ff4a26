"""Numbers from environment variables: they change how a result is computed, not the result."""

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
