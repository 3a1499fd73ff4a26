"""No file of a user's is changed or removed, whatever its name (tests/files_fuzz.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import files_fuzz

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("times", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_nothing_in_random_trees_of_a_users_files_is_touched(times: int) -> None:
    command = [sys.executable, "-m", "tests.files_fuzz", "--times", str(times), "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(": 0 with a file changed or removed\n")


@pytest.mark.parametrize("linked", [["plots"], ["plots", ".cache"]])
def test_a_file_with_an_outputs_name_where_plots_leads_is_an_output(
    tmp_path: Path, linked: list[str]
) -> None:
    root, outside = tmp_path / "project", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    for name in linked:
        (root / name).symlink_to(outside)
    ours = {
        path: files_fuzz.is_ours_by_any_way(root, Path(path))
        for path in ("plots/history.csv", ".cache/history.csv", "plots/my history.csv")
    }
    through = ".cache" in linked
    assert ours == {
        "plots/history.csv": True,
        ".cache/history.csv": through,
        "plots/my history.csv": False,
    }
