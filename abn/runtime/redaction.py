"""Addresses without passwords and keys, for everything that people read."""

import re
from typing import Any


def redacted(text: str) -> str:
    """`text` as it is; an address (scheme://...) without user, password, query and fragment."""
    if "://" not in text:
        return text
    return re.sub(r"(?s)[?#].*", "", re.sub(r"(?s)(?<=://).*@", "***@", text))


def sentence(text: str) -> str:
    """`text`, in which any address may stand, without their users, passwords and queries."""
    return re.sub(r"(://[^\s?#]*)\?[^\s#]*", r"\1?***", re.sub(r"(?<=://)[^/\s]*@", "***@", text))


def within(value: Any) -> Any:
    """`value`, lists and mappings in depth, with every text in it redacted."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {within(key): within(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(within, value))
    return value
