"""Many experiments from one, to measure what they cost."""

from pathlib import Path

from benchmarks import overhead
from benchmarks.overhead import _git as git


def test_a_project_gets_as_many_experiments_as_are_asked_for(tmp_path: Path, monkeypatch) -> None:
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "a")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "a@example.com")
    git(tmp_path, "init", "-q")
    (tmp_path / "params.yaml").write_text("seed: 1")
    git(tmp_path, "add", "params.yaml")
    git(tmp_path, "commit", "-qm", "base")
    base = git(tmp_path, "rev-parse", "HEAD")
    first = git(tmp_path, "commit-tree", "HEAD^{tree}", "-p", base, "-m", "first")
    git(tmp_path, "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/vapid-frog", first)
    for count in (1, 3, 5):
        overhead._add_experiments(tmp_path, count)
        refs = git(tmp_path, "for-each-ref", "refs/exps", "--format=%(objectname) %(tree)")
        commits, trees = zip(*map(str.split, refs.splitlines()), strict=True)
        assert len(set(commits)) == len(commits) == count and len(set(trees)) == 1
