"""What killed processes leave in a clone of this project, and the commands that repair it.

It prints a line for each problem, with the command to run. With --fix it removes the half-written
files of this project's own stages, and nothing else. Exit code 1: a problem is left.
"""

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path

from abn.doctor import dvc_experiments, processes, working_tree
from abn.doctor.working_tree import Problem

HELP = "name what killed processes left behind, and the commands that repair it"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("--fix", action="store_true", help="remove our own half-written files")


def run(options: argparse.Namespace) -> int:
    """Print a line for each problem; the exit code."""
    busy = processes.at_work(Path.cwd())
    if busy:
        print(f"at work here: {', '.join(busy)}; git's and DVC's files are not checked")
    left = [problem for problem in _problems(bool(busy)) if not _report(problem, options.fix)]
    for line in (*working_tree.unfinished(), *dvc_experiments.stashed()):
        print(line)
    return int(bool(left))


def _problems(busy: bool) -> Iterator[Problem]:
    yield from working_tree.own_files()
    if not busy:
        yield from working_tree.dvc_lock()
        yield from working_tree.dvc_tables()
        yield from working_tree.git_locks()
        yield from dvc_experiments.detached_head()
        yield from dvc_experiments.folders()


def _report(problem: Problem, fix: bool) -> bool:
    """Print `problem`; with `fix` remove it where it is ours. Whether it is gone."""
    fixed = fix and problem.ours and working_tree.remove(Path(str(problem.where)))
    how = "removed" if fixed else f"run: {shlex.join(problem.command)}"
    print(f"{problem.where}: {problem.what}; {how}")
    return fixed
