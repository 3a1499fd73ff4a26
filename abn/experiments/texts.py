"""A comparison as text: for a terminal, as Markdown, as JSON and as CSV."""

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd
from tabulate import tabulate

from abn.experiments.comparison import Comparison
from abn.experiments.configuration import VERDICT, Configuration, Summary
from abn.experiments.difference import ALL, Difference
from abn.project.results import DIGITS
from abn.runtime.spreadsheet import escaped
from abn.visualize.tables import MISSING, number

SHOWN = {  # the columns, where no metrics are named
    "evaluate.top1": "Top-1",
    "evaluate.ece": "Calibration error",
    "explain.srg": "SRG",
}
LEGEND = (
    "± is the standard deviation over the seeds. Below it the difference to the first line, with "
    "its 95 % interval and what that covers: other images, other seeds, or both. Where the two do "
    "not share all seeds, it says over how many it is paired; with no seed it is that of the means."
)
# The IoU of the top fifth of the attention maps' cells, ± its deviation over the pairs of seeds.
STABLE_COLUMNS = "Stable between seeds", "Seeds", "Images", "Overlap of the maps"
DIFFERENCE = "difference", "low", "high", "covers", "paired"  # columns of a CSV
WIDEST = 60  # characters of a param's value
MARKDOWN = "github"  # tabulate's name of it
SYNTAX = re.compile(r"[\\`*_\[\]<>~|&$]")  # of Markdown, HTML and mathematics on GitHub
MOST = 8  # configurations in a table of what differs


def console(comparison: Comparison, metrics: Sequence[str]) -> str:
    """For a terminal."""
    return _document(comparison, metrics, "simple", "")


def markdown(comparison: Comparison, metrics: Sequence[str]) -> str:
    """For a pull request."""
    return _document(comparison, metrics, MARKDOWN, "### ")


def as_json(comparison: Comparison) -> str:
    """Every metric, param and verdict, as one object."""
    content = {
        "configurations": [_object(comparison, each) for each in comparison.configurations],
        "differing": comparison.differing,
        "notes": list(comparison.notes),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def as_csv(comparison: Comparison) -> str:
    """A row for each configuration and metric; an empty field was not measured."""
    rows = []
    for each in comparison.configurations:
        differences = comparison.differences(each)
        for name, summary in each.metrics.items():
            more: tuple[object, ...] = differences.get(name) or (None, None, None, "", "")
            columns = {"configuration": escaped(each.label), "metric": name} | summary._asdict()
            rows.append(columns | dict(zip(DIFFERENCE, more, strict=True)))
    return pd.DataFrame(rows).round(DIGITS).to_csv(index=False, lineterminator="\n")


def headings(metrics: Sequence[str]) -> dict[str, str]:
    """The columns: metric to heading."""
    return {name: SHOWN.get(name, name) for name in metrics} or SHOWN


def value(summary: Summary | None, seeds: int = 0) -> str:
    """A metric over the seeds: "0.981 ± 0.004", with the count where fewer than `seeds` have it."""
    if summary is None:
        return MISSING
    spread = "" if summary.sd is None else f" ± {number(summary.sd, 3)}"
    count = f" ({summary.seeds} of {seeds} seeds)" if summary.seeds < seeds else ""
    return f"{number(summary.mean, 3)}{spread}{count}"


def change(more: Difference | None, line: str = " ") -> str:
    """A difference: "+0.012 (0.003 to 0.021) images", `line` between its parts; empty for none."""
    if more is None:
        return ""
    sign = "+" if round(more.mean, 3) > 0 else ""
    interval = f"({number(more.low, 3)} to {number(more.high, 3)})", more.covers
    parts = interval if more.covers else ("no interval",)
    paired = [] if more.paired in ("", ALL) else [f"(paired: {more.paired})"]
    return line.join([f"{sign}{number(more.mean, 3)}", *parts, *paired])


def verdicts(configuration: Configuration) -> str:
    """ "explains 2, undecided 1"; the word alone where there is one training."""
    counts = configuration.verdicts
    if len(configuration.trainings) == 1:
        return next(iter(counts), MISSING)
    return ", ".join(f"{word} {count}" for word, count in counts.most_common()) or MISSING


def _document(c: Comparison, metrics: Sequence[str], form: str, heading: str) -> str:
    """The tables, in tabulate's format `form`."""
    names = headings(metrics)
    parts = [f"{heading}{_written(title(c), form)}", _table(c, names, form), LEGEND]
    if not metrics and (rows := stable(c)):
        parts.append(_tabulated(rows, [*STABLE_COLUMNS], form))
    if c.differing and len(c.configurations) <= MOST:
        columns = ["What differs", *(each.label for each in c.configurations)]
        rows = [[name, *cut(values)] for name, values in c.differing.items()]
        parts.append(_tabulated(rows, columns, form))
    elif c.differing:
        many = f"more than {MOST} configurations"
        parts.append(f"What differs between {many} is in `--json` and `--html`.")
    bullet = "- " if heading else ""
    parts += ["\n".join(bullet + _written(note, form) for note in c.notes)]
    return "\n\n".join(filter(None, parts)) + "\n"


def cut(values: Sequence[str]) -> list[str]:
    """`values` in at most WIDEST characters each, unless different ones would then look alike.

    What the long ones all begin and end with is cut, and what is between, each in its middle.
    """
    long = {value: value for value in values if len(value) > WIDEST}
    start = _alike(list(long))
    end = _alike([value[start:][::-1] for value in long])
    for v in long:
        long[v] = "".join(map(_middle_cut, (v[:start], v[start : len(v) - end], v[len(v) - end :])))
    short = [long.get(value, value) for value in values]
    return short if len(set(short)) == len(set(values)) else list(values)


def _alike(values: Sequence[str]) -> int:
    """How many first characters are the same in all `values`."""
    columns = zip(*values, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda letters: len(set(letters)) == 1, columns))


def _middle_cut(text: str) -> str:
    half = WIDEST // 6 - 1
    return text if len(text) <= WIDEST // 3 else f"{text[:half]}…{text[-half:]}"


def stable(comparison: Comparison) -> list[list[str]]:
    """Rows of STABLE_COLUMNS: each configuration of which several seeds can be compared."""
    return [
        [each.label, str(each.stable.seeds), str(each.shared), value(each.stable)]
        for each in comparison.configurations
        if each.stable
    ]


def title(comparison: Comparison) -> str:
    """What is compared, in one line."""
    first, *others = comparison.configurations
    if not others:
        return f"{first.label}: {_trainings(first)}"
    names = ", ".join(each.label for each in others) if len(others) < 3 else f"{len(others)} others"
    return f"{names} against {first.label}"


def _trainings(configuration: Configuration) -> str:
    count = len(configuration.trainings)
    return "one training" if count == 1 else f"{count} trainings"


def _table(c: Comparison, names: dict[str, str], form: str) -> str:
    rows = []
    for each in c.configurations:
        more, known, seeds = c.differences(each), each.metrics, len(each.trainings)
        parts = [(value(known.get(name), seeds), change(more.get(name), "\n")) for name in names]
        cells = ["\n".join(filter(None, part)) for part in parts]
        rows.append([each.label, ", ".join(each.seeds), *cells, verdicts(each)])
    return _tabulated(rows, ["Configuration", "Seeds", *names.values(), "Verdict"], form)


def _tabulated(rows: list[list[str]], columns: list[str], form: str) -> str:
    rows = [[_written(cell, form) for cell in row] for row in rows]
    columns = [_written(cell, form) for cell in columns]
    return tabulate(rows, columns, tablefmt=form, disable_numparse=True)


def _written(text: str, form: str) -> str:
    """`text`; in Markdown such that it is read as it is, and stays in its line."""
    if form != MARKDOWN:
        return text
    return "<br>".join(SYNTAX.sub(r"\\\g<0>", line) for line in text.splitlines())


def _object(comparison: Comparison, configuration: Configuration) -> dict[str, Any]:
    more = comparison.differences(configuration)
    return {
        "label": configuration.label,
        "trainings": [
            {
                "name": each.name,
                "revision": each.revision,
                "seed": each.seed,
                "metrics": each.metrics,
            }
            for each in configuration.trainings
        ],
        "params": configuration.params,
        "metrics": {
            name: _rounded(summary) | ({"difference": _rounded(more[name])} if name in more else {})
            for name, summary in configuration.metrics.items()
        },
        VERDICT: dict(configuration.verdicts),
    }


def _rounded(values: Summary | Difference) -> dict[str, Any]:
    return {
        key: round(each, DIGITS) if isinstance(each, float) else each
        for key, each in values._asdict().items()
    }
