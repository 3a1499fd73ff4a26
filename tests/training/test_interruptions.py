"""The real train stage, killed, stopped, starved of disk or memory: the same command recovers."""

import hashlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import stage_process, test_stages

pytestmark = pytest.mark.slow

VICTIM = Path(__file__).with_name("victim.py")
STEPS = 24  # four epochs of six
SMALL = {
    "data": {"size": 32, "shapes": {"train": 48, "val": 10}},
    "train": {"epochs": 4, "batch_size": 8, "sizes": [32], "val_size": 32, "val_resize": 32},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose data is packed."""
    root = tmp_path_factory.mktemp("prepared")
    project = test_stages.copy(root)
    project.change(**SMALL)
    project.run("python -m stages.download")
    return root


@pytest.fixture(scope="module")
def expected(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of what an uninterrupted training writes."""
    root = tmp_path_factory.mktemp("expected") / "project"
    shutil.copytree(prepared, root, ignore_dangling_symlinks=True)
    done = train(root)
    assert done.returncode == 0, done.stderr
    return outputs(root)


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    """A project to break."""
    return Path(shutil.copytree(prepared, tmp_path / "project", ignore_dangling_symlinks=True))


def outputs(root: Path) -> dict[str, str]:
    files = [*root.glob("checkpoint/*"), root / "metrics/train.json", root / "plots/history.csv"]
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def train(root: Path, *faults: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the train stage in `root` with `faults` of victim.py."""
    return subprocess.run(
        [sys.executable, str(VICTIM), *faults],
        cwd=root,
        env=stage_process.environment(**env),
        text=True,
        capture_output=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )


def kill(root: Path, step: int) -> None:
    """kill -9 after `step` steps of a training that saves a state after each."""
    done = train(root, f"send:SIGKILL@{step}", ABN_CHECKPOINT_EVERY="0")
    assert done.returncode == -signal.SIGKILL and not (root / "checkpoint").exists()


def recover(root: Path, expected: dict[str, str], message: str = "RESUMED") -> None:
    """Assert that the same command ends with the expected bytes and leaves nothing else."""
    again = train(root)
    assert again.returncode == 0 and message in again.stderr, again.stderr
    assert outputs(root) == expected
    assert stage_process.leftovers(root) == []


def test_kill_9_after_each_step(prepared: Path, expected: dict[str, str], tmp_path: Path) -> None:
    for step in range(1, STEPS + 1):
        root = tmp_path / str(step)
        shutil.copytree(prepared, root, ignore_dangling_symlinks=True)
        kill(root, step)  # before the state of that step is saved
        recover(root, expected, "RESUMED" if step > 1 else "FRESH")


def test_kill_9_twice_in_one_training(root: Path, expected: dict[str, str]) -> None:
    kill(root, 4)
    kill(root, 5)
    recover(root, expected)


@pytest.mark.parametrize(
    ("name", "step", "position"),
    [
        ("SIGTERM", 8, "epoch 1, step 2"),
        ("SIGINT", 1, "epoch 0, step 1"),
        ("SIGHUP", 12, "epoch 1, step 6"),  # the epoch's validation is not done yet
        ("SIGUSR1", 23, "epoch 3, step 5"),
    ],
)
def test_a_signal_saves_a_state(
    root: Path, expected: dict[str, str], name: str, step: int, position: str
) -> None:
    """Without a signal the first state would be saved after ten minutes."""
    done = train(root, f"send:{name}@{step}")
    assert done.returncode == 143, done.stderr
    assert done.stderr.splitlines()[-1].startswith("stopped with a checkpoint; the same command")
    recover(root, expected, f"RESUMED after {position} of the next")


EDITED = {
    "params.yaml": "train",
    "abn/training/augment.py": "abn/training/augment.py",
    "data/train.safetensors": "data/train.safetensors",
}


@pytest.mark.parametrize("file", EDITED)
def test_an_edit_during_the_training_is_refused_and_put_back_nothing_is_lost(
    root: Path, expected: dict[str, str], file: str
) -> None:
    before = (root / file).read_bytes()
    line = error_line(train(root, f"edit:{file}@9"), "CHANGED", 4)
    assert EDITED[file] in line and not (root / "checkpoint").exists()
    changed = train(root, "send:SIGKILL@1")
    assert "FRESH" in changed.stderr, "a state of other inputs was used"
    (root / file).write_bytes(before)
    again = train(root, "send:SIGKILL@1")  # no step is left to do
    assert again.returncode == 0 and "RESUMED after epoch 4, step 0" in again.stderr, again.stderr
    assert outputs(root) == expected


@pytest.mark.parametrize(
    ("fault", "kind", "code", "words"),
    [
        ("nan", "NOTFINITE", 6, "the loss is nan; epoch 2, step 2 (lr "),
        ("memory:cuda", "DEVICE", 7, "CUDA out of memory; train.batch_size = 8; try 4"),
        ("memory:cpu", "DEVICE", 7, "out of memory; train.batch_size = 8; try 4"),
        ("disk:ENOSPC", "DISK", 5, "No space left on device; "),
        ("disk:EIO", "DISK", 5, "Input/output error; "),
    ],
)
def test_a_fault_is_one_line_and_an_exit_code(
    root: Path, fault: str, kind: str, code: int, words: str
) -> None:
    line = error_line(train(root, f"{fault}@8"), kind, code)
    assert line.startswith(f"error[{kind}] {words}") and not (root / "checkpoint").exists()


def error_line(done: subprocess.CompletedProcess[str], kind: str, code: int) -> str:
    """The one error line of a stage that ended with `code`."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error[")]
    assert done.returncode == code, (done.returncode, done.stderr)
    assert len(lines) == 1 and lines[0].startswith(f"error[{kind}] "), done.stderr
    assert lines[0].count("; ") >= 2 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def test_a_closed_pipe_is_a_quiet_stop_with_a_state(root: Path, expected: dict[str, str]) -> None:
    """`python -m stages.train 2>&1 | head -1`"""
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.train"],
        cwd=root,
        env=stage_process.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "FRESH\n"
    process.stdout.close()
    assert process.wait(600) == 128 + signal.SIGTERM
    assert any(root.glob(".resume/*/state-*.safetensors")) and not (root / "checkpoint").exists()
    recover(root, expected)
