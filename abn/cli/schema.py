"""Print the JSON schema of params.yaml, which editors complete and check it by."""

import argparse

from abn.config import params

HELP = "print the JSON schema of params.yaml"
NEEDS_PROJECT = False  # the schema is in the code


def configure(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(options: argparse.Namespace) -> int:
    """Print the schema; 0."""
    print(params.schema(), end="")
    return 0
