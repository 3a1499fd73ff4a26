"""Say what takes room on the disk and may go; with --yes, remove what is provably ours.

    abn clean                # only says
    abn clean --yes          # removes states of trainings untouched for a week, half-written files
    abn clean --days 0       # of states of any age

States of an unfinished training are work: they go only with --unfinished. Nothing of a running
training or stage is touched. For DVC's cache the command to run is printed, not run.
"""

import argparse
import time
from pathlib import Path

from abn.doctor import leftovers, processes
from abn.doctor.leftovers import Leftover
from abn.experiments import dvc, git
from abn.runtime.errors import BusyError

HELP = "say what takes room on the disk and may go; with --yes, remove what is ours"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--yes", action="store_true", help="remove it")
    age = "of states untouched for so long; 7"
    parser.add_argument("--days", type=float, default=7.0, metavar="N", help=age)
    parser.add_argument("--unfinished", action="store_true", help="also of unfinished trainings")


def run(options: argparse.Namespace) -> int:
    """Print a line for each; 0. BusyError where --yes is given while something is at work here."""
    git.require(dvc.root())  # else no experiment would be counted
    found = [*leftovers.half_written(), *leftovers.trainings(time.time(), options.days)]
    going = [each for each in found if each.old and (options.unfinished or not each.work)]
    for each in found:
        kept = "kept: --unfinished removes it" if each.old else "kept: recent"
        print(f"{_size(each)}  {each.path}: {each.what}; {'may go' if each in going else kept}")
    if options.yes and going:
        if busy := processes.at_work(Path.cwd()):
            raise BusyError("something is at work here", ", ".join(busy), "wait for it, or stop it")
        gone = list(leftovers.remove(going))
        print(f"{_total(gone)}  removed")
    elif going:
        print(f"{_total(going)}  to remove it, add --yes")
    cache = leftovers.cache()
    for each in (*leftovers.copies(), cache):
        print(f"{_size(each)}  {each.path}: {each.what}")
    print(f"What no branch, tag, experiment or the workspace has: {leftovers.COLLECT} --dry")
    if not cache.path.resolve().is_relative_to(dvc.root().resolve()):
        print("That cache is outside of this project. If others use it, name them with --projects,")
        print("or what only they need is removed too.")
    print("Without --dry it removes that. `dvc exp remove NAME` gives up an experiment first.")
    return 0


def _size(each: Leftover) -> str:
    return f"{each.size / 1e6:8,.1f} MB"


def _total(some: list[Leftover]) -> str:
    return f"{sum(each.size for each in some) / 1e6:8,.1f} MB"
