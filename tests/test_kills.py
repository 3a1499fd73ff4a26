"""What tests/kills.py reads and counts, and one real kill of each kind of experiment."""

import argparse
import json
from pathlib import Path

import pytest

from tests import kills
from tests.kills import SAME, Trial

STATUS = """\
Task     Name    Created    Status
1a2b3c4  other   09:14 AM   Success
5d6e7f8  lucky   09:15 AM   Running

Worker status: 0 active, 0 idle
"""


def test_the_status_is_that_of_the_line_with_the_name() -> None:
    assert kills.status_of("lucky", STATUS) == "Running"
    assert kills.status_of("other", STATUS) == "Success"
    assert kills.status_of("third", STATUS) == ""


def test_the_sums_say_where_the_kills_struck_and_what_they_needed() -> None:
    trials = [
        Trial("run", 0, 1.5, "train", ["git switch master"], [], SAME),
        Trial("run", 1, 0.5, "", [], [], SAME),
        Trial("temp", 0, 2.0, "train", [], ["rm -r tmp..."], "AssertionError: an edit was lost"),
    ]
    assert kills.summary(trials) == {
        "run": {
            "kills": 2,
            "same_bytes": 2,
            "nothing_else_needed": 1,
            "struck": {"train": 1, "between stages": 1},
            "needed": {"git switch master": 1},
            "left": {},
        },
        "temp": {
            "kills": 1,
            "same_bytes": 0,
            "nothing_else_needed": 1,
            "struck": {"train": 1},
            "needed": {},
            "left": {"rm -r tmp...": 1},
        },
    }


@pytest.mark.slow
def test_a_killed_experiment_of_each_kind_ends_with_the_same_bytes(tmp_path: Path) -> None:
    options = argparse.Namespace(times=1, seed=1, mode=None, out=tmp_path)
    assert kills.main(options) == 0
    sums = json.loads((tmp_path / "kills.json").read_text())["found"]["sums"]
    assert {mode: each["same_bytes"] for mode, each in sums.items()} == {
        "run": 1,
        "temp": 1,
        "queue": 1,
    }
