"""No file of a user's is changed or removed, whatever its name (tests/files_fuzz.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("times", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_nothing_in_random_trees_of_a_users_files_is_touched(times: int) -> None:
    command = [sys.executable, "-m", "tests.files_fuzz", "--times", str(times), "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(": 0 with a file changed or removed\n")
