"""Addresses lose their secrets; all else stays as it is."""

import pytest

from abn.runtime.redaction import redacted, sentence, within


@pytest.mark.parametrize(
    "address, shown",
    [
        ("https://example.org/a.tgz", "https://example.org/a.tgz"),
        ("https://me:secret@example.org/a.tgz", "https://***@example.org/a.tgz"),
        ("https://me:se/c@r et@example.org/a.tgz", "https://***@example.org/a.tgz"),
        ("https://token@example.org:8080/", "https://***@example.org:8080/"),
        ("https://example.org/a.tgz?key=secret", "https://example.org/a.tgz"),
        ("https://example.org/a.tgz#secret", "https://example.org/a.tgz"),
        ("https://me:a?b#c@example.org/a?k=\ns", "https://***@example.org/a"),
        ("postgresql://me:secret@db/mlflow", "postgresql://***@db/mlflow"),
        ("https:me:secret@example.org/a.tgz", "https:***@example.org/a.tgz"),
        ("https:/me:secret@example.org/a.tgz", "https:/***@example.org/a.tgz"),
    ],
)
def test_an_address_loses_user_password_query_and_fragment(address: str, shown: str) -> None:
    assert redacted(address) == shown


@pytest.mark.parametrize("text", ["", "images/a#1?.tgz", "me@example.org", "resnet18"])
def test_what_is_no_address_stays(text: str) -> None:
    assert redacted(text) == text


def test_addresses_are_found_in_depth() -> None:
    given = {"a": ["x", ("ftp://u:p@h/f",)], "ftp://u:p@h/f": 1, "b": None}
    shown = "ftp://***@h/f"
    assert within(given) == {"a": ["x", (shown,)], shown: 1, "b": None}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://host:5000/a", "http://host:5000/a"),
        ("postgresql://u:p@ss@host/db?sslkey=k", "postgresql://***@host/db?***"),
        ("postgresql://u:p/a?s@host/db", "postgresql://***@host/db"),
        ("see https://t@h/x?sig=1#f now, a@b", "see https://***@h/x?*** now, a@b"),
        ("see https://h/x#f", "see https://h/x?***"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_no_address_in_a_sentence_gives_anything_away(text: str, shown: str) -> None:
    assert sentence(text) == shown
