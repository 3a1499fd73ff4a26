"""The doctor names what killed processes leave, with commands that repair it."""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from abn.cli import doctor
from abn.doctor import processes, working_tree
from tests import test_stages

ROOT = Path(__file__).parents[2]
Report = Callable[..., tuple[int, str]]
RECORDED = "".join(re.split(r"^(?=  \w+:)", (ROOT / "dvc.lock").read_text(), flags=re.M)[:2])
LOCK, TABLE = Path("dvc.lock"), Path(".dvc/tmp/rwlock")
OURS = (
    "data/.train.safetensors.abn.part",
    "data/.val.safetensors.abn.part",
    ".checkpoint.abn.part/model.safetensors",
    "metrics/.train.json.abn.part",
    "plots/.explain_maps.csv.abn.part",
    "outputs/.gallery.abn.part/ring-best.png",
    "outputs/.report.html.abn.part",
)
THEIRS = (
    "data/holiday-photos.zip.part",
    "data/train.safetensors.part",
    "checkpoint.part/notes.txt",
    "outputs/gallery.part/mine.png",
    "outputs/report.html.part",
    "data/.tmpAbC123",
    "images/cat.part",
    "plots/notes.csv.part",
    "metrics/mine.json.part",
    ".cache/downloads/ab/imagenette.tgz.part",  # the download goes on there
    ".dvc/cache/files/md5/ab/.Ab-C_12345678901234567.tmp",
)


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write(path: str | Path, text: str = "") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return Path(path)


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory: a repository with the first stage of this project's dvc.lock."""
    monkeypatch.chdir(tmp_path)
    for name, value in test_stages.IDENTITY.items():
        monkeypatch.setenv(name, value)
    LOCK.write_text(RECORDED)
    write("README.md", "read me\n")
    git("init", "-qb", "main")
    git("add", "-A")
    git("commit", "-qm", "start")


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """`report()`: the doctor's exit code and all that it prints."""
    return lambda: (doctor.run(argparse.Namespace()), capsys.readouterr().out)


def snapshot() -> dict[str, bytes]:
    """Every file here, and what is in it."""
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_a_clean_clone_has_no_problem(report: Report) -> None:
    assert report() == (0, "")


def test_it_needs_neither_torch_nor_dvc() -> None:
    check = "import sys, abn.cli.doctor; assert not {'torch', 'dvc', 'pandas'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


def test_only_our_half_written_files_are_named_with_the_command_that_removes_them(
    report: Report,
) -> None:
    for name in OURS + THEIRS:
        write(name)
    code, text = report()
    commands = re.findall(r": half-written by a .*; run: (.+)", text)
    assert code == 1 and len(commands) == text.count("\n") == len(OURS)
    for command in commands:
        subprocess.run(command.split(), check=True)
    assert not any(Path(name).exists() for name in OURS)
    assert all(Path(name).exists() for name in THEIRS)


def cut_lock() -> None:
    LOCK.write_bytes(LOCK.read_bytes()[:20])


def detached_by_dvc() -> None:
    head = git("rev-parse", "main")
    git("checkout", "-q", head)
    for name in ("EXEC_HEAD", "EXEC_BASELINE"):
        git("update-ref", f"refs/exps/exec/{name}", head)


@pytest.mark.parametrize(
    ("break_it", "command"),
    [
        (cut_lock, "git checkout -- dvc.lock"),
        (
            lambda: write(TABLE, '{"write": {"data": {"pid": 1, "cmd": "dvc"}}}'),
            "rm .dvc/tmp/rwlock",
        ),
        (lambda: write(".git/index.lock"), "rm .git/index.lock"),
        (
            lambda: write(".dvc/tmp/exps/standalone/tmpab/file"),
            "rm -r .dvc/tmp/exps/standalone/tmpab",
        ),
        (detached_by_dvc, "git switch main"),
    ],
)
def test_a_problem_is_only_named_and_the_printed_command_repairs_it(
    report: Report, break_it: Callable[[], object], command: str
) -> None:
    break_it()
    before = snapshot()
    code, text = report()
    assert code == 1 and text.endswith(f"run: {command}\n") and text.count("\n") == 1
    assert snapshot() == before
    subprocess.run(command.split(), check=True, capture_output=True)
    assert report() == (0, "")


@pytest.mark.parametrize("content", [b"", b"[]", b"stages:\n", b"\0" * 99, b"\xff\n", b"{\n", b"1"])
def test_a_dvc_lock_without_stages_is_incomplete(content: bytes) -> None:
    assert not working_tree.is_complete(content)


def test_a_dvc_lock_without_its_last_line_is_incomplete() -> None:
    """It is YAML still, and DVC would not write it again."""
    lines = (ROOT / "dvc.lock").read_bytes().splitlines(keepends=True)
    assert not working_tree.is_complete(b"".join(lines[:-1]))
    stage = b"stages:\n  train:\n    cmd: x\n    outs:\n    - path: checkpoint\n      md5: 1.dir\n"
    assert not working_tree.is_complete(stage + b"      size: 1\n")
    assert working_tree.is_complete(stage + b"      size: 1\n      nfiles: 1\n")


def test_a_dvc_lock_with_a_dependency_on_the_web_is_complete() -> None:
    """DVC records such a dependency by checksum or etag, without md5 and size."""
    deps = "[{path: 'https://a.org/x', checksum: '\"1\"'}, {path: 's3://a/x', etag: e, size: 1}]"
    stages = f"{{get: {{cmd: wget, deps: {deps}}}}}"
    assert working_tree.is_complete(f"schema: '2.0'\nstages: {stages}\n".encode())
    assert working_tree.is_complete((ROOT / "dvc.lock").read_bytes())


def test_what_dvc_has_staged_is_newer_than_what_is_committed(report: Report) -> None:
    LOCK.write_text(LOCK.read_text().replace("size: ", "size: 1"))
    git("add", str(LOCK))
    LOCK.write_bytes(b"")
    assert "run: git checkout -- dvc.lock" in report()[1]
    LOCK.write_bytes(b"cut")
    git("add", str(LOCK))
    assert "run: git checkout HEAD -- dvc.lock" in report()[1]
    git("rm", "-q", "--cached", str(LOCK))
    git("commit", "-qm", "without")
    assert "run: mv dvc.lock dvc.lock.bad" in report()[1]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", True),
        ("{", True),
        ('{"write": {}}', False),
        ('{"write": {"data": {"pid": 4194304, "cmd": "dvc repro"}}}', False),  # it has ended
    ],
)
def test_a_table_that_dvc_cannot_read_is_named(report: Report, content: str, named: bool) -> None:
    write(TABLE, content)
    assert report()[0] == named


@pytest.mark.parametrize("path", [LOCK, TABLE])
def test_what_cannot_be_read_is_named_and_does_not_hide_the_rest(
    report: Report, path: Path
) -> None:
    path.unlink(missing_ok=True)
    write(path / "mine.txt")
    write(OURS[0])
    code, text = report()
    assert code == 1 and f"{path}: cannot be read (Is a directory); run: ls -ld {path}\n" in text
    assert OURS[0] in text


def test_a_deliberate_detached_head_is_left_alone(report: Report) -> None:
    head = git("rev-parse", "HEAD")
    git("update-ref", "refs/exps/exec/EXEC_HEAD", head)  # of an experiment that has ended
    git("checkout", "-q", head)
    assert report() == (0, "")
    assert git("rev-parse", "--abbrev-ref", "HEAD") == "HEAD"


def test_a_head_on_no_branch_before_and_after_an_experiment_is_a_line_and_no_problem(
    report: Report,
) -> None:
    """As where a killed `dvc exp run` was given again before the doctor was asked."""
    head = git("rev-parse", "HEAD")
    git("checkout", "-q", head)
    git("commit", "-q", "--allow-empty", "-m", "dvc: commit experiment 1a2b3c")
    git("update-ref", "-m", f"dvc: Restore HEAD to '{head}'", "HEAD", head)
    what = "on no branch, as it was before the last `dvc exp run`"
    line = f"HEAD: {what}; if a killed one left it so: git switch main\n"
    assert report() == (0, line)
    git("switch", "-q", "main")
    assert report() == (0, "")


@pytest.mark.parametrize(("age", "code"), [(3600, 0), (5, 1)])
def test_a_detached_head_beside_a_stash_is_named_only_if_both_came_at_once(
    report: Report, monkeypatch: pytest.MonkeyPatch, age: int, code: int
) -> None:
    """DVC stashes and leaves the branch in a moment; a person's stash may be older."""
    write("README.md", "my edit")
    monkeypatch.setenv("GIT_COMMITTER_DATE", f"{1_700_000_000 - age} +0000")
    git("stash", "-q")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "1700000000 +0000")
    git("checkout", "-q", git("rev-parse", "HEAD"))
    found, text = report()
    assert found == code and ("run: git switch main" in text) == bool(code)
    assert "git stash: stash@{0}: WIP on main: " in text


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_a_stash_message_that_is_not_utf_8_is_shown_with_marks(encoding: str) -> None:
    write("README.md", "my edit")
    subprocess.run(["git", "stash", "push", "-qm", b"K\xe4fer \xff"], check=True)
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    write("dvc.yaml"), write("params.yaml", "seed: 1\n")
    done = subprocess.run([sys.executable, "-m", "abn", "doctor"], env=env, capture_output=True)
    assert done.returncode == 0 and done.stderr == b""
    assert b"git stash: stash@{0}: On main: K" in done.stdout and b"fer" in done.stdout


def test_head_back_on_its_branch_keeps_uncommitted_changes(report: Report) -> None:
    write("README.md", "my edit")
    detached_by_dvc()
    assert "run: git switch main" in report()[1]
    git("switch", "main")
    assert git("status", "--porcelain") == "M README.md"


@pytest.mark.parametrize("edited", [True, False])
def test_params_that_a_killed_experiment_emptied_come_back_with_what_was_not_committed(
    report: Report, edited: bool
) -> None:
    """As DVC does: it stashes what is not committed, puts it back, and opens the file to write."""
    params = write("params.yaml", "seed: 1\n")
    git("add", "-A")
    git("commit", "-qm", "params")
    whole = "seed: 2\n" if edited else "seed: 1\n"
    write("params.yaml", whole)
    write("README.md", "my edit")
    git("stash", "-q")
    git("stash", "apply", "-q")
    params.write_text("")
    code, text = report()
    command = text.splitlines()[0].rpartition("; run: ")[2]
    assert code == 1 and text.startswith("params.yaml: empty; a killed `dvc exp run` leaves it so")
    subprocess.run(command, shell=True, check=True)
    assert params.read_text() == whole
    assert "params.yaml" not in report()[1]


def test_a_training_to_resume_is_named_until_it_has_ended(report: Report) -> None:
    state = write(".resume/ab12/state-0002-00000005.safetensors", "x" * 2_000_000)
    text = "a training to resume, after epoch 2, step 5; 2 MB; to drop it: rm -r .resume/ab12\n"
    assert report() == (0, f".resume/ab12: {text}")
    assert state.exists()
    write(".resume/ab12/done")
    assert report() == (0, "")


def test_changes_in_git_stash_are_named(report: Report) -> None:
    write("README.md", "my edit")
    git("stash", "-q")
    code, text = report()
    assert code == 0 and text.startswith("git stash: stash@{0}: WIP on main: ")


def test_while_dvc_is_at_work_no_file_is_named(report: Report) -> None:
    write("bin/dvc", "import time; time.sleep(60)")
    cut_lock()
    write(OURS[0])
    write(".resume/0123456789abcdef/lock")  # its training may be the one that runs
    process = subprocess.Popen([sys.executable, "bin/dvc", "repro"])
    try:
        while not processes.at_work(Path.cwd()):
            time.sleep(0.01)
        code, text = report()
        assert text.startswith(f"at work here: process {process.pid} (")
        assert code == 0 and "run: " not in text and ".resume" not in text
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("folder", "seen"), [(None, True), ("/", False)])
def test_a_process_in_a_folder_we_may_not_read_counts_as_at_work_here(
    monkeypatch: pytest.MonkeyPatch, folder: str | None, seen: bool
) -> None:
    """Another user's process: psutil gives no folder where access to it is denied."""
    stranger = psutil.Process(1)
    stranger.info = {"pid": 1, "cwd": folder, "cmdline": ["python", "/usr/bin/dvc", "repro"]}
    monkeypatch.setattr(psutil, "process_iter", lambda attributes: [stranger])
    monkeypatch.setattr(psutil.Process, "parents", lambda process: [])
    assert bool(processes.at_work(Path.cwd())) == seen


COMMANDS = {
    "python /venv/bin/dvc repro": True,
    "/venv/bin/dvc exp run": True,
    "python -m dvc repro": True,
    "python -u -m stages.train": True,
    "python /venv/bin/torchrun --nproc-per-node=2 -m stages.train": True,
    "git commit": True,
    "git fsmonitor--daemon run": False,
    "python -m dvc daemon updater": False,
    "python -m abn.cli.doctor": False,
    "vim dvc.yaml": False,
    "vim stages.txt": False,
    "": False,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_dvc_git_and_the_stages_are_recognised(command: str) -> None:
    assert processes.is_relevant(command.split()) == COMMANDS[command]
