"""Each test here has a repository of its own, whose HEAD is a run of resnet18 with seed 1."""

from pathlib import Path

import pytest

from tests.experiments.recorded import git, run


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "a")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "a@example.com")
    Path(".dvc").mkdir()
    git("init", "-qb", "main")
    run()
    git("add", "-A")
    git("commit", "-qm", "start")
