"""Locks between processes."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from abn.project.stage import as_user_error
from abn.runtime import locks
from abn.runtime.errors import BusyError

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from abn.project.stage import as_user_error
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


REFUSING = """
import errno, fcntl, sys

def refuse(*arguments):
    raise OSError(getattr(errno, sys.argv[2]), "refused")

fcntl.flock = refuse
"""


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_where_the_disk_refuses_flock_a_second_process_waits_until_the_first_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(getattr(errno, name), "refused")

    monkeypatch.setenv("ABN_WAIT", "0.1")
    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "lock"
    command = [sys.executable, "-c", REFUSING + HOLD, str(path), name]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        message = rf"^it is under way; process {holder.pid} on \S+; .* gone: rm .*/lock\.soft$"
        with pytest.raises(BusyError, match=message), locks.alone(path, "it"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    monkeypatch.setenv("ABN_WAIT", "10")  # it looks again a few times before it breaks a lock
    for _ in range(2):
        with locks.alone(path, "it"):
            assert locks.soft(path).exists()
        assert list(tmp_path.iterdir()) == []


def test_a_lock_on_another_machine_is_waited_for_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "refused")

    monkeypatch.setenv("ABN_WAIT", "0.1")
    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "lock"
    locks.soft(path).write_text("1\nnode7\n")
    with pytest.raises(BusyError, match="process 1 on node7; "), locks.alone(path, "it"):
        pass
    assert locks.soft(path).read_text() == "1\nnode7\n"


def test_what_is_in_the_place_of_a_lock_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.mkdir()
    with pytest.raises(OSError, match="lock") as caught, locks.alone(path, "it"):
        pass
    assert as_user_error(caught.value, "train") is not None
    assert path.is_dir()
