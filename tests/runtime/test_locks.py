"""Locks between processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from abn.runtime import locks
from abn.runtime.errors import BusyError

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from abn.runtime import locks
with locks.alone(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_and_its_file_are_gone_after_the_block(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    for _ in range(2):
        with locks.alone(path, "it"):
            assert path.read_text() == str(os.getpid())
        assert not path.exists()


def test_the_second_process_is_refused_until_the_first_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABN_WAIT", "0.1")
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        message = rf"^it is under way; process {holder.pid}; wait for it, or stop it$"
        with pytest.raises(BusyError, match=message), locks.alone(path, "it"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locks.alone(path, "it"):
            assert path.read_text() == str(os.getpid())
