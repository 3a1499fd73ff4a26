"""Addresses without passwords and keys, for everything that people read."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any


def redacted(text: str) -> str:
    """`text` as it is; an address (scheme:...) without user, password, query and fragment."""
    if "://" not in text:
        return re.sub(r"(?s)^([A-Za-z][\w+.-]+:/?).*@", r"\1***@", text)  # a slash was forgotten
    return re.sub(r"(?s)[?#].*", "", re.sub(r"(?s)(?<=://).*@", "***@", text))


def sentence(text: str) -> str:
    """`text`, in which any address may stand, without their users, passwords and queries."""
    return re.sub(r"(://[^\s?#]*)[?#]\S*", r"\1?***", re.sub(r"(?<=://)\S*@", "***@", text))


def within(value: Any) -> Any:
    """`value`, lists and mappings in depth, with every text in it redacted."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {within(key): within(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(within, value))
    return value


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as texts under dotted keys, addresses in them redacted."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            shown = within(value)
            yield f"{prefix}{key}", shown if isinstance(value, str) else json.dumps(shown)
