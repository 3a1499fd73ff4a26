"""DVC killed for real: the printed commands repair, the same command ends with the same bytes."""

import re
import signal
import time
from pathlib import Path

import pytest

from tests import graph, soak
from tests.graph import STAGES, Run, output

pytestmark = pytest.mark.slow
TRAIN = "dvc repro train"
TRAINED, ALL = STAGES.index("train") + 1, len(STAGES)
SETTING = "-n lucky -S train.lr=0.03"  # as it is already, so that the bytes are the expected ones


@pytest.mark.parametrize("share", [0.0, 0.1, 0.23, 0.5, 0.77, 0.999])
def test_a_dvc_lock_cut_off_anywhere_is_repaired_by_the_printed_command(
    tmp_path: Path, share: float
) -> None:
    root = graph.project(tmp_path, ALL)
    lock = root / "dvc.lock"
    lock.write_bytes(lock.read_bytes()[: int(share * lock.stat().st_size)])
    graph.finish(root)


def test_after_a_cut_dvc_lock_nothing_that_ran_since_the_commit_runs_again(tmp_path: Path) -> None:
    root = graph.project(tmp_path, ALL)
    output(root, "git reset -q")  # what DVC had staged
    (root / "dvc.lock").write_bytes(b"")
    text = graph.finish(root)
    assert text.count("is cached - skipping run") == ALL, text


@pytest.mark.parametrize("content", ["", '{"write": {"FOLDER/data": {"pid": 1, "cmd": "dvc"}}}'])
def test_a_table_of_processes_that_dvc_refuses_is_named(tmp_path: Path, content: str) -> None:
    root = graph.project(tmp_path, 0)
    table = root / ".dvc/tmp/rwlock"
    table.parent.mkdir(exist_ok=True)
    table.write_text(content.replace("FOLDER", str(root)))
    refused = output(root, "dvc repro -s download", 255)
    assert re.search("rwlock.*corrupted|is busy", refused), refused
    assert "run: rm .dvc/tmp/rwlock" in graph.repair(root)
    assert "is busy" not in output(root, "dvc repro --dry -s download")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/dash"])
def test_a_training_ends_with_its_dvc_and_resumes(
    tmp_path: Path, sent: signal.Signals, shell: str
) -> None:
    root = graph.project(tmp_path, 1)
    run = Run(root, f"exec {TRAIN}", SHELL=shell)
    assert run.trains(root)
    run.parts()["dvc"].send_signal(sent)
    assert run.end() == -sent, run.text
    assert "RESUMED" in graph.finish(root, TRAIN, TRAINED)


def test_dvc_killed_between_a_trainings_end_and_its_record(tmp_path: Path) -> None:
    root = graph.project(tmp_path, 1)
    history = root / "plots/history.csv"
    before = history.stat().st_mtime_ns if history.exists() else 0
    run = Run(root, f"exec {TRAIN}")
    written = lambda: history.exists() and history.stat().st_mtime_ns != before  # noqa: E731
    assert run.until(written, pause=0.002)
    run.parts()["dvc"].kill()
    assert run.end() == -signal.SIGKILL, run.text
    assert "FRESH" not in graph.finish(root, TRAIN, TRAINED)


def test_a_second_dvc_repro_while_the_first_trains_is_refused(tmp_path: Path) -> None:
    root = graph.project(tmp_path, 1)
    first = Run(root, f"exec {TRAIN}")
    assert first.trains(root)
    second = output(root, f"{graph.DOCTOR} && {TRAIN}", 255)
    assert "at work here: process" in second and "is busy, it is being blocked by" in second
    assert first.end() == 0, first.text
    graph.check(root, TRAINED)


def test_a_stage_whose_params_changed_while_it_ran_is_not_recorded(tmp_path: Path) -> None:
    root = graph.project(tmp_path, 1)
    lock, params = (root / "dvc.lock").read_bytes(), (root / "params.yaml").read_text()
    run = Run(root, f"exec {TRAIN}")
    assert run.trains(root)
    (root / "params.yaml").write_text(params.replace("  lr: 0.03", "  lr: 0.04"))
    assert run.end() == 255 and "exited with 4" in run.text, run.text
    assert (root / "dvc.lock").read_bytes() == lock
    (root / "params.yaml").write_text(params)
    assert "RESUMED" in graph.finish(root, TRAIN, TRAINED)


def committed(folder: Path) -> Path:
    """A project to experiment in: data is packed, all is committed but an edit of README.md."""
    root = graph.project(folder, 1)
    output(root, "git add -A && git commit -qm packed")
    with (root / "README.md").open("a") as readme:
        readme.write("a change by hand\n")
    return root


def ended_well(root: Path, text: str) -> None:
    """Assert that the experiment resumed, and ended as if it had never been interrupted."""
    assert "RESUMED" in text, text
    graph.check(root)
    assert "a change by hand" in (root / "README.md").read_text(), "an edit was lost"
    assert output(root, "git symbolic-ref HEAD") == "refs/heads/master\n"


def test_kill_9_for_dvc_exp_run(tmp_path: Path) -> None:
    root = committed(tmp_path)
    run = Run(root, f"exec dvc exp run {SETTING}")
    assert run.trains(root)
    run.parts()["dvc"].kill()
    assert run.end() == -signal.SIGKILL
    assert "run: git switch master" in graph.repair(root)
    ended_well(root, output(root, f"dvc exp run {SETTING}"))


@pytest.mark.parametrize("wait", [0.0, 0.3, 0.6])
def test_kill_9_for_dvc_exp_run_while_it_stashes_changes_loses_none(
    tmp_path: Path, wait: float
) -> None:
    root = committed(tmp_path)
    run = Run(root, f"exec dvc exp run {SETTING}")
    assert run.until((root / ".git/refs/stash").exists, pause=0.001)
    time.sleep(wait)
    run.kill()
    graph.repair(root)
    assert output(root, "git symbolic-ref HEAD") == "refs/heads/master\n"
    hidden = output(root, "git stash show -p; git diff HEAD refs/exps/exec/EXEC_MERGE; true")
    assert "a change by hand" in (root / "README.md").read_text() + hidden


def test_kill_9_for_dvc_exp_run_temp(tmp_path: Path) -> None:
    root = committed(tmp_path)
    run = Run(root, f"exec dvc exp run --temp {SETTING}")
    assert run.trains(root)
    run.parts()["dvc"].kill()
    assert run.end() == -signal.SIGKILL
    text = output(root, f"dvc exp run --temp {SETTING}")
    assert "run: rm -r .dvc/tmp/exps/standalone/tmp" in graph.repair(root)
    output(root, "git checkout -q README.md && dvc exp apply lucky")
    ended_well(root, text)


@pytest.mark.parametrize(("victim", "status"), [("train", "Failed"), ("dvc", "Running")])
def test_a_killed_experiment_of_the_queue_is_queued_again(
    tmp_path: Path, victim: str, status: str
) -> None:
    root = committed(tmp_path)
    output(root, f"dvc exp run --queue {SETTING}")
    run = Run(root, "dvc queue start")
    assert run.trains(root)
    for process in run.alive():
        if victim in " ".join(process.cmdline()):
            process.kill()
    run.end()
    assert re.search(f"lucky .*{status}", output(root, "dvc queue status"))
    if status == "Running":  # DVC believes so though its worker is gone
        output(root, "dvc queue kill lucky")
    output(root, f"dvc queue remove lucky && dvc exp run --queue {SETTING}")
    Run(root, "dvc queue start").end()
    graph.repair(root)
    output(root, "git checkout -q README.md && dvc exp apply lucky")
    ended_well(root, "".join(f.read_text() for f in root.glob(".dvc/tmp/exps/run/*/*.out")))


def test_a_soak_of_two_random_kills_ends_with_the_same_bytes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert soak.main(times=2, seed=1) == 0
    assert "2 of 2 ended with the same bytes" in capsys.readouterr().out
