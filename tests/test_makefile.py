"""`make setup`: when it makes .venv, in folders of any name; Python and uv are stand-ins."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = ("Makefile", "pyproject.toml", "requirements.lock", "requirements-uv.lock")
PYTHON = """#!/bin/sh
echo "$*" >> "{log}"
if [ "$2" = venv ]; then
    mkdir -p "$3/bin"
    for name in python uv; do cp "$0" "$3/bin/$name"; done
fi
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with what `make setup` reads; every call of Python or uv is a line of log.txt."""
    folder = tmp_path / "my project ü"
    folder.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    python = tmp_path / "python"
    python.write_text(PYTHON.format(log=tmp_path / "log.txt"))
    python.chmod(0o755)
    return folder


def setup(folder: Path) -> tuple[int, list[str], str]:
    """The exit code, the calls it took, and the errors of `make setup` in `folder`."""
    log = folder.parent / "log.txt"
    log.write_text("")
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    command = ["make", "setup", f"PYTHON={folder.parent / 'python'}"]
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return run.returncode, log.read_text().splitlines(), run.stderr


def test_a_first_setup_installs_the_locked_packages_by_hash_and_then_the_project(
    project: Path,
) -> None:
    code, calls, _ = setup(project)
    assert code == 0
    steps = [call for call in calls if call.startswith(("-m", "pip"))]
    assert steps[0] == "-m venv .venv"
    assert steps[1].endswith("--require-hashes --requirement requirements-uv.lock")
    assert steps[2].startswith("pip sync") and steps[2].endswith("requirements.lock")
    assert steps[3].startswith("pip install") and steps[3].endswith("--editable .")


def test_a_second_setup_does_nothing(project: Path) -> None:
    setup(project)
    assert setup(project) == (0, ["-c "], "")  # it only tries whether Python starts


def test_a_changed_lock_updates_the_environment_in_place(project: Path) -> None:
    setup(project)
    (project / "requirements.lock").write_text("numpy==2.4.6\n")
    _, calls, _ = setup(project)
    assert "-m venv .venv" not in calls
    assert any(call.startswith("pip sync") for call in calls)


def test_a_moved_folder_starts_over(project: Path) -> None:
    setup(project)
    moved = project.rename(project.parent / "moved")
    assert "-m venv .venv" in setup(moved)[1]


def test_an_environment_whose_python_is_gone_starts_over(project: Path) -> None:
    setup(project)
    (project / ".venv/bin/python").unlink()
    assert "-m venv .venv" in setup(project)[1]


def test_an_environment_that_make_did_not_make_is_left_alone(project: Path) -> None:
    theirs = project / ".venv/theirs"
    theirs.parent.mkdir()
    theirs.touch()
    code, calls, errors = setup(project)
    assert code == 2 and calls == [] and theirs.exists()
    assert errors.startswith("error: .venv was not made by make; move it away")


def test_make_repro_runs_dvc_repro_and_nothing_else(project: Path) -> None:
    """Above all no repair: what looks like the rest of a dead process may be a living one's."""
    setup(project)
    dvc = project / ".venv/bin/dvc"
    dvc.write_text('#!/bin/sh\necho "dvc $*" >> "$LOG"\n')
    dvc.chmod(0o755)
    log = project.parent / "log.txt"
    log.write_text("")
    command = ["make", "repro", f"PYTHON={project.parent / 'python'}"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    subprocess.run(command, cwd=project, env=env | {"LOG": str(log)}, check=True)
    assert log.read_text().splitlines() == ["-c ", "dvc repro"]


def test_uv_takes_the_lock_of_the_benchmarks_with_their_hashes() -> None:
    """A range in pyproject's [tool.uv] would have it refused: hashes need exact versions."""
    command = ["uv", "pip", "install", "--dry-run", "--offline", "--require-hashes"]
    command += ["--python", sys.executable, "--requirements", "requirements-bench.lock"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "pinned with `==`" not in run.stderr
    assert run.returncode == 0 or "network" in run.stderr  # offline: packages may be missing
