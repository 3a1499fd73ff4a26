"""`abn schema` prints the schema that is committed."""

import argparse
from pathlib import Path

import pytest

from abn.cli import schema

ROOT = Path(__file__).parents[2]


def test_the_printed_schema_is_the_committed_one(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    schema.configure(parser)
    assert schema.run(parser.parse_args([])) == 0
    assert capsys.readouterr().out == (ROOT / "schema/params.schema.json").read_text()
