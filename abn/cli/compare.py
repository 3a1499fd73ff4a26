"""Compare experiments, sweeps, branches and the workspace.

    abn compare                          # HEAD, the workspace and every experiment
    abn compare sweep                    # sweep-1, sweep-2, ... of `dvc exp run --queue -n sweep`
    abn compare main 'look-*' vapid-frog
    abn compare main                     # main against the workspace, as `dvc metrics diff`
    abn compare --md origin/main HEAD    # the text of a pull request
    abn compare sweep --html sweep.html  # one page with curves, verdicts and maps

Trainings that differ only in their seed are one line: mean and standard deviation. The first line
is what the others are compared with. Everything is read from what DVC recorded, nothing is run.
"""

import argparse
import sys

from abn.experiments import texts
from abn.experiments.comparison import Comparison, compare
from abn.experiments.snapshots import read
from abn.runtime import files
from abn.runtime.errors import DataError, ParamsError

HELP = "compare experiments: means over seeds, differences with intervals, a page"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "names", nargs="*", metavar="EXPERIMENT", help="or a pattern, or a revision"
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="STAGE.NAME",
        help="a column, such as explain.leak; may be repeated",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--md", action="store_true", help="print Markdown")
    form.add_argument("--json", action="store_true", help="print JSON: every metric and param")
    form.add_argument("--csv", action="store_true", help="print CSV: a row per line and metric")
    parser.add_argument(
        "--html", type=files.absolute, metavar="FILE", help="also write a page, to look at offline"
    )


def run(options: argparse.Namespace) -> int:
    """Print the comparison, and write the page; 0."""
    snapshots = read(options.names)
    if not snapshots:
        where = ", ".join(options.names) or "HEAD, the workspace and DVC's experiments"
        raise DataError("no training is recorded in dvc.lock", where, "run `dvc repro` first")
    comparison = compare(snapshots)
    _check(comparison, options.metric)
    if options.html:
        from abn.experiments import page  # here: it draws, which takes seconds to import

        page.write(options.html, comparison, options.metric)
        print(f"written: {options.html}", file=sys.stderr)
    print(_text(comparison, options), end="")
    return 0


def _text(comparison: Comparison, options: argparse.Namespace) -> str:
    if options.json:
        return texts.as_json(comparison)
    if options.csv:
        return texts.as_csv(comparison)
    form = texts.markdown if options.md else texts.console
    return form(comparison, options.metric)


def _check(comparison: Comparison, metrics: list[str]) -> None:
    """ParamsError for a metric that no training has."""
    known = dict.fromkeys(name for each in comparison.configurations for name in each.metrics)
    for name in metrics:
        if name not in known:
            raise ParamsError(
                "no training has it", f"--metric {name}", f"use one of {', '.join(known)}"
            )
