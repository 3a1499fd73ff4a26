"""The doctor: it finds what killed processes leave, mends what can do no harm, spares the rest."""

import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from abn.cli import doctor
from abn.doctor import dvc_experiments, processes, working_tree
from abn.training import resume
from abn.training.state import State
from tests import test_stages, toys

ROOT = Path(__file__).parents[2]
Say = Callable[..., tuple[int, str]]
RECORDED = "".join(re.split(r"^(?=  \w+:)", (ROOT / "dvc.lock").read_text(), flags=re.M)[:2])
LOCK, TABLE = Path("dvc.lock"), Path(".dvc/tmp/rwlock")


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
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """`say("--fix")`: the doctor's exit code and all that it prints."""

    def run(*options: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["doctor.py", *options])
        code = doctor.main()
        return code, capsys.readouterr().out

    return run


def test_where_all_is_well_there_is_nothing_to_say(say: Say) -> None:
    assert say() == (0, "")


def test_it_needs_neither_torch_nor_dvc() -> None:
    check = "import sys, abn.cli.doctor; assert not {'torch', 'dvc', 'pandas'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


def test_it_says_what_it_would_do_and_does_it_only_when_asked_to(say: Say) -> None:
    TABLE.parent.mkdir(parents=True)
    TABLE.touch()
    found = ".dvc/tmp/rwlock: not whole; {} rm .dvc/tmp/rwlock\n"
    assert say() == (1, found.format("to mend it:")) and TABLE.exists()
    assert say("--fix") == (0, found.format("mended by")) and not TABLE.exists()
    assert say() == (0, "")


def test_a_cut_dvc_lock_is_put_back_wherever_it_was_cut(say: Say) -> None:
    whole = LOCK.read_bytes()
    for length in range(0, len(whole) - 1, len(whole) // 10):
        LOCK.write_bytes(whole[:length])
        code, said = say("--fix")
        if said:  # cut between two entries it is as DVC writes it: that stage is run again
            assert code == 0 and "mended by git checkout -- dvc.lock" in said
            assert LOCK.read_bytes() == whole
        LOCK.write_bytes(whole[:length].rpartition(b"md5")[0])
        assert say()[0] == 1, f"cut before byte {length}"
        git("checkout", "--", str(LOCK))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"stages:\n", b"\0" * 99, b"\xff\n", b"{\n", b"1\n"]
)
def test_what_is_no_dvc_lock_is_not_whole(content: bytes) -> None:
    assert not working_tree.is_whole(content)


def test_what_dvc_has_staged_is_newer_than_what_is_committed(say: Say) -> None:
    LOCK.write_text(LOCK.read_text().replace("size: ", "size: 1"))
    git("add", str(LOCK))
    staged = LOCK.read_bytes()
    LOCK.write_bytes(b"")
    assert say("--fix")[0] == 0 and LOCK.read_bytes() == staged
    LOCK.write_bytes(b"cut")
    git("add", str(LOCK))
    assert "git checkout HEAD -- dvc.lock" in say("--fix")[1]
    assert LOCK.read_text() == RECORDED


def test_a_merge_of_dvc_lock_is_left_to_a_person(say: Say) -> None:
    git("checkout", "-qb", "other")
    for branch in ("other", "main"):
        git("checkout", "-q", branch)
        LOCK.write_text(LOCK.read_text().replace("schema", f"# {branch}\nschema"))
        git("commit", "-qam", branch)
    assert subprocess.run(["git", "merge", "-q", "other"], capture_output=True).returncode
    conflict = LOCK.read_bytes()
    code, said = say("--fix")
    assert code == 1 and "two versions are being merged; by hand: git checkout --ours" in said
    assert LOCK.read_bytes() == conflict


def test_a_dvc_lock_that_git_does_not_have_is_left_to_a_person(say: Say) -> None:
    git("rm", "-q", "--cached", str(LOCK))
    git("commit", "-qm", "without")
    LOCK.write_bytes(b"stages:\n")
    assert say("--fix")[0] == 1 and LOCK.exists()


def table(pid: int) -> str:
    holder = {"pid": pid, "cmd": "dvc repro"}
    return json.dumps({"write": {"data": holder}, "read": {"params.yaml": [holder]}})


@pytest.mark.parametrize(
    "content", ["", "{", "[7]", '{"write": {"data": 7}}', table(1), table(2**22)]
)
def test_a_table_that_is_cut_off_or_names_who_is_gone_goes(say: Say, content: str) -> None:
    for path in (TABLE, Path(".dvc/tmp/exps/rwlock")):
        write(path, content)
        assert say("--fix")[0] == 0 and not path.exists()


def test_a_table_of_nobody_stays(say: Say) -> None:
    write(TABLE, '{"write": {}}')
    assert say("--fix") == (0, "") and TABLE.exists()


def test_locks_of_processes_that_are_gone_go_and_held_ones_stay(say: Say) -> None:
    held = write(".cache/locks/train.lock", "1")
    gone = [write(".cache/locks/explain.lock", "2"), write(".git/index.lock")]
    gone.append(write(".git/refs/heads/main.lock"))
    with FileLock(held):
        assert say("--fix")[0] == 0 and held.exists()
    assert not any(lock.exists() for lock in gone)


PARTS = (
    "metrics/train.json.part",
    "checkpoint/.tmpAbC123",
    "checkpoint.part/model.safetensors",
    "outputs/gallery/.Ab-C_12345678901234567.tmp",
    ".dvc/cache/files/md5/ab/.Ab-C_12345678901234567.tmp",
)
SPARED = (
    ".cache/downloads/ab/imagenette.tgz.part",  # it goes on there
    "images/cat.part",
    "notes.part",
    "plots/notes.tmp",
)


def test_what_was_being_written_goes_but_nothing_of_a_person(say: Say) -> None:
    for name in PARTS + SPARED:
        write(name)
    assert say("--fix")[0] == 0
    assert not any(Path(name).exists() for name in PARTS)
    assert all(Path(name).exists() for name in SPARED)


def test_a_training_that_can_go_on_is_told_and_kept(say: Say) -> None:
    store = resume.ResumeStore(Path(".resume/ab12"))
    history = [{"epoch": 1.0}, {"epoch": 2.0}]
    optimizer = torch.optim.SGD([torch.zeros(1)])
    store.save(State({"model": toys.network()}, optimizer, history))
    code, said = say("--fix")
    assert code == 0 and said.startswith(".resume/ab12: a training that can go on")
    assert "after epoch 2, step 0" in said and said.endswith("rm -r .resume/ab12\n")
    assert len(list(store.folder.iterdir())) == 1
    store.mark_done()
    assert "ab12" not in say()[1]


def detached(branch: str = "main") -> None:
    """As DVC does it for an experiment on `branch`, killed in its middle."""
    head = git("rev-parse", branch)
    git("checkout", "-q", head)
    git("update-ref", "refs/exps/exec/EXEC_HEAD", head)


def test_head_is_put_back_on_its_branch_and_no_file_changes(say: Say) -> None:
    write("README.md", "my edit")
    detached()
    code, said = say("--fix")
    assert code == 0 and "HEAD: off its branch main" in said
    assert git("symbolic-ref", "HEAD") == "refs/heads/main"
    assert git("status", "--porcelain") == "M README.md"
    assert say() == (0, "")


def test_so_it_is_after_more_experiments_from_there(say: Say) -> None:
    detached()
    head = git("rev-parse", "HEAD")
    git("checkout", "-q", head)
    git("update-ref", "-m", f"dvc: Restore HEAD to '{head}'", "--no-deref", "HEAD", head)
    assert "git symbolic-ref HEAD refs/heads/main" in say("--fix")[1]


def test_head_stays_where_a_person_took_it(say: Say) -> None:
    git("checkout", "-q", git("rev-parse", "HEAD"))
    assert say("--fix") == (0, "")


def test_head_stays_where_its_branch_has_gone_on(say: Say) -> None:
    detached()
    commit = git("commit-tree", "-m", "next", "-p", "main", "main^{tree}")
    git("update-ref", "refs/heads/main", commit)
    code, said = say("--fix")
    assert code == 1 and "by hand: git symbolic-ref HEAD refs/heads/main" in said
    assert git("rev-parse", "--abbrev-ref", "HEAD") == "HEAD"


def test_changes_that_git_hides_are_told(say: Say) -> None:
    write("README.md", "my edit")
    git("stash", "-q")
    code, said = say()
    assert code == 0 and said.startswith("git stash: stash@{0}: WIP on main: ")


def queue(name: str | None, number: str, ended: bool = False) -> None:
    """A task that DVC's queue has handed out, as celery keeps it."""
    body = [[{"stash_rev": f"{number:040}", "name": name}], {}, {}]
    headers = {"task": "dvc.repo.experiments.queue.tasks.run_exp", "id": f"id{number}"}
    message = {"body": base64.b64encode(json.dumps(body).encode()).decode(), "headers": headers}
    write(dvc_experiments.CELERY / f"broker/processed/{number}.celery.msg", json.dumps(message))
    if ended:
        write(dvc_experiments.CELERY / f"result/celery-task-meta-id{number}", "{}")


def test_a_task_that_runs_nowhere_is_found_and_its_number_forgotten() -> None:
    """`dvc queue kill` kills the process of that number, which may be a stranger by now."""
    queue("lucky", "1")
    queue("done", "2", ended=True)
    queue(None, "3")
    write(dvc_experiments.CELERY / "broker/processed/4.celery.msg", "{")
    process = write(f".dvc/tmp/exps/run/{'1':040}/{'1':040}.json", '{"pid": 1}')
    commands = [finding.command for finding in dvc_experiments.tasks()]
    kill = ["dvc", "queue", "kill", "--force"]
    assert commands == [["rm", str(process)], [*kill, "lucky"], [*kill, f"{'3':040}"[:7]]]


def test_folders_of_killed_experiments_go(say: Say) -> None:
    for name in ("tmpab", "standalone/tmpcd", "run/ab", "celery"):
        write(f".dvc/tmp/exps/{name}/file")
    assert say("--fix")[0] == 0
    left = sorted(path.name for path in Path(".dvc/tmp/exps").rglob("*") if path.is_dir())
    assert left == ["ab", "celery", "run", "standalone"]


def test_while_someone_is_at_work_all_is_left_as_it_is(say: Say) -> None:
    write("bin/dvc", "import time; time.sleep(60)")
    TABLE.parent.mkdir(parents=True)
    TABLE.touch()
    process = subprocess.Popen([sys.executable, "bin/dvc", "repro"])
    try:
        while not processes.at_work(Path.cwd()):
            time.sleep(0.01)
        code, said = say("--fix")
        assert code == 0 and said.startswith(f"at work here: process {process.pid} (")
        assert TABLE.exists()
    finally:
        process.kill()
        process.wait()


WORDS = {
    "python /venv/bin/dvc repro": True,
    "/venv/bin/dvc exp run": True,
    "python -m dvc repro": True,
    "python -u -m stages.train": True,
    "git commit": True,
    "git fsmonitor--daemon run": False,
    "python /venv/bin/dvc daemon updater": False,
    "python -m abn.cli.doctor --fix": False,
    "sh -c dvc repro": False,
    "vim dvc.yaml": False,
    "": False,
}


@pytest.mark.parametrize("words", WORDS)
def test_dvc_git_and_the_stages_are_ours(words: str) -> None:
    assert processes._is_ours(words.split()) == WORDS[words]
