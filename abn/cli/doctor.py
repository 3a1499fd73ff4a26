"""What killed processes leave in a clone of this project, and the commands that repair it.

It prints a line for each problem, with the command to run, and changes nothing itself.
Exit code 1: there is a problem.
"""

import argparse
import shlex
from pathlib import Path

from abn.doctor import dvc_experiments, processes, working_tree

HELP = "name what killed processes left behind, and the commands that repair it"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__


def run(options: argparse.Namespace) -> int:
    """Print a line for each problem; the exit code."""
    problems: list[working_tree.Problem] = []
    if busy := processes.at_work(Path.cwd()):
        print(f"at work here: {', '.join(busy)}; the files that they may write are not checked")
    else:
        problems += [*working_tree.problems(), *dvc_experiments.problems()]
    for problem in problems:
        print(f"{problem.where}: {problem.what}; run: {shlex.join(problem.command)}")
    unfinished = () if busy else working_tree.unfinished()  # one of them may be running
    for line in (*unfinished, *dvc_experiments.still_detached(), *dvc_experiments.stashed()):
        print(line)
    return int(bool(problems))
