"""A window where there is a screen, and one line where there is none."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHOW = """
from pathlib import Path
from abn.visualize import window
from abn.runtime.errors import UserError
try:
    window.show(Path("picture.png"))
except UserError as error:
    print(error)
"""


def test_without_a_screen_the_file_to_open_is_named():
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=ROOT,
        env={"MPLBACKEND": "agg", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "no screen to show a window on; --show; open picture.png\n"
