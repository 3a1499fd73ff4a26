"""`abn sync`: bring MLflow what it lacks of the files here and of DVC's experiments."""

import argparse
from pathlib import Path

from abn.experiments import dvc, git
from abn.tracking import client, mirror

HELP = "add to MLflow what it lacks: trainings, the results here, DVC's experiments"


def configure(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(options: argparse.Namespace) -> int:
    """Print a line per run; TrackingError where the store fails."""
    git.require(dvc.root())  # else experiments would be left out without a word
    try:
        for line in client.Store().update(mirror.records(Path.cwd())):
            print(line, flush=True)
    except Exception as error:
        raise client.failure(error) from error
    return 0
