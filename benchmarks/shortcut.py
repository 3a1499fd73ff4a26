"""Would the map have warned? A shortcut is built in, so it is known which network relies on it.

    python -m benchmarks.shortcut --attention residual look --seeds 0 1 2 3 4

The network of presets/shortcut.yaml learns the set `shapes` twice. Once a patch at the border has
the colour of the class (--rho), once its colour is random (--control). Rendering the validation
pictures again with one thing changed measures which network relies on the patch. A map raises its
alarm where it is denser on the patch than on the target. Hits are alarms on the reliant network,
false alarms those on the control. Hits less false alarms (Youden's J; Cancer, 1950) are 0 for a map
that is blind to what the network relies on, and 1 for a perfect alarm.

A round is one mode and one seed: two trainings. The seed is the unit of all statistics: many
pictures of one network say nothing about the next one. The data are the same for all. A map would
have warned if the 95 % t interval of hits less false alarms over the seeds lies above 0.1, and if
at least half of the pictures raise the alarm. "No" takes an interval below 0.1.

Modes are compared seed by seed. A pair of rounds counts as equally accurate where the accuracies on
pictures whose patch shows their class differ by --margin at most, of the reliant networks and of
the controls. The differences are given over all tested pairs and over the equal ones.

Five seeds and two modes are 20 trainings of a few minutes each. --work keeps them: a killed run
goes on with the same command, and rounds of other seeds or modes join the record, shortcut.json, so
that it can be made in parts. Maps and importance are those of the predicted class.
"""

import argparse
import itertools
import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from abn.config.params import Params
from abn.data.loader import CenterCrop
from abn.runtime import progress
from abn.training import resume
from benchmarks import kept, measure, patches
from benchmarks.kept import Job, Training
from benchmarks.measure import over_trainings, spread, with_interval
from benchmarks.patches import Parts, Pictures

BASE = "residual"  # the mode that others are compared with
SIDES = ("reliant", "control")  # the networks of a round
LEAST = 0.1  # of hits less false alarms: less is no warning
NEITHER = "not tested: the two networks never differ in what they rely on"
BLIND = "no: its alarm does not tell the reliant network from the control"
SILENT = "no: silent on most pictures of the reliant network"
UNDECIDED = "undecided: more seeds would say"
WARNED = "yes"
ALARMS = ("hits", "false_alarms", "youden", "auroc")
EXAMINING = ("data", "datasets", "models", "explain", "predict.py", "training")
Results = dict[str, Any]


def main() -> None:
    options = _parser().parse_args()
    with measure.for_people():
        params = _params(options, options.rho, BASE, 0)
        recipe = kept.recipe(params, "attention", "seed", "explain")
        about = recipe, options.control, options.images, kept.code(*EXAMINING), kept.machine()
        folder = options.work / "found" / resume.fingerprint("shortcut", *about)
        _run(options, params, folder)
        rounds = _kept_rounds(folder)
        found = summary(rounds, options.margin)
        # The rounds say themselves which seeds and modes there are.
        settings = kept.settings(options, recipe, "seeds", "attention")
        measure.save(options.out, "shortcut", settings, {"rounds": rounds, "summary": found})
        print(tables(found))


def rehearse(
    pictures: Pictures, view: CenterCrop, mode: str, seed: int, trainings: Iterable[Training]
) -> Results:
    """A round: what both networks rely on, and how often each map raises its alarm."""
    kept_networks = dict(zip(SIDES, trainings, strict=True))
    seen = {
        side: patches.examine(training.network(), pictures, view, seed)
        for side, training in kept_networks.items()
    }
    taught, other = seen.values()
    return {
        "attention": mode,
        "seed": seed,
        "tested": taught.behaviour["reliance"] >= 0.5 > other.behaviour["reliance"],
        "networks": {side: _row(seen[side]) | kept_networks[side].row() for side in SIDES},
        "maps": {
            name: alarms(taught.density[name], other.density[name]) for name in taught.density
        },
    }


def alarms(reliant: Parts, control: Parts) -> Results:
    """How often a map raises its alarm on both networks, and how its densities differ.

    A flat map, whose density is NaN, raises no alarm; its density on the patch counts as chance, 1.
    """
    hits, false = (_mean(side["patch"] > side["target"]) for side in (reliant, control))
    above, below = (side["patch"].nan_to_num(1.0) for side in (reliant, control))
    return {
        "density": {"reliant": _means(reliant), "control": _means(control)},
        "hits": hits,
        "false_alarms": false,
        "youden": hits - false,
        "auroc": _mean(above[:, None] > below) / 2 + _mean(above[:, None] >= below) / 2,
    }


def summary(rounds: list[Results], margin: float) -> Results:
    """Each mode over its seeds, and every other mode less `BASE`, seed by seed."""
    by_mode: dict[str, list[Results]] = {}
    for each in rounds:
        by_mode.setdefault(each["attention"], []).append(each)
    base = by_mode.get(BASE, [])
    others = {mode: mine for mode, mine in by_mode.items() if mode != BASE}
    return {
        "modes": {mode: _over_seeds(mine) for mode, mine in by_mode.items()},
        f"less_{BASE}": {mode: _compared(mine, base, margin) for mode, mine in others.items()},
    }


def verdict(scores: Results) -> str:
    """In words, from a map's alarms over the seeds."""
    low, high = scores["youden"]["low"], scores["youden"]["high"]
    if low is None or low <= LEAST <= high:
        return UNDECIDED
    if high < LEAST:
        return BLIND
    return WARNED if scores["hits"]["mean"] >= 0.5 else SILENT


def _parser() -> argparse.ArgumentParser:
    parser = kept.parser(__doc__, Path("presets/shortcut.yaml"), seeds=[0, 1, 2, 3, 4])
    add = parser.add_argument
    add("--rho", type=float, default=0.98, help="how often the patch shows the class")
    add("--control", type=float, default=0.1, help="and to the control network")
    add("--images", type=int, default=500, help="pictures to ask about")
    add("--margin", type=float, default=0.1, help="of accuracy, between equally accurate networks")
    return parser


def _params(options: argparse.Namespace, chance: float, mode: str, seed: int) -> Params:
    built_in = {"data.name": "shapes", "data.shapes.shortcut": chance}
    return kept.params(options, attention=mode, seed=seed, **built_in)


def _run(options: argparse.Namespace, params: Params, folder: Path) -> None:
    """Rehearse the rounds that are asked for and not yet in `folder`."""
    rounds = list(itertools.product(options.seeds, options.attention))
    files = {(mode, seed): folder / f"{mode}-{seed}.json" for seed, mode in rounds}
    missing = {key: file for key, file in files.items() if not file.exists()}
    trainings = kept.train_all(_plan(options, list(missing)), options.work)
    pictures = patches.pictures(params.data, options.images)
    view = CenterCrop(*(params.evaluate.view or params.train.view))
    for (mode, seed), file in missing.items():
        pair = itertools.islice(trainings, len(SIDES))
        found = kept.measured(file, partial(rehearse, pictures, view, mode, seed, pair))
        progress.say(f"done: {mode}, seed {seed}; {_line(found)}")


def _plan(options: argparse.Namespace, rounds: list[tuple[str, int]]) -> dict[str, Job]:
    """The trainings of `rounds`, two each, by a name for the console."""
    chances = dict(zip(SIDES, (options.rho, options.control), strict=True))
    splits = {
        side: kept.data(_params(options, chance, BASE, 0).data, options.work)
        for side, chance in chances.items()
    }
    return {
        f"{mode}, seed {seed}, {side} network": (_params(options, chance, mode, seed), splits[side])
        for mode, seed in rounds
        for side, chance in chances.items()
    }


def _kept_rounds(folder: Path) -> list[Results]:
    """All rounds in `folder` by seed, of each seed `BASE` first."""
    rounds = [json.loads(file.read_text("utf-8")) for file in folder.glob("*.json")]
    return sorted(rounds, key=lambda x: (x["seed"], x["attention"] != BASE, x["attention"]))


def _line(found: Results) -> str:
    """A round's answer in a line."""
    if not found["tested"]:
        return "not tested, the networks do not differ in what they rely on"
    scores = found["maps"]["attention"]
    return "attention: hits {hits:.2f}, false alarms {false_alarms:.2f}".format(**scores)


def _row(network: patches.Examined) -> Results:
    """What a round says of a network."""
    drops = _means(network.importance).items()
    return network.behaviour | {f"importance_{part}": drop for part, drop in drops}


def _over_seeds(rounds: list[Results]) -> Results:
    """The networks of all rounds of a mode; the maps of those rounds that tested something."""
    tested = [each for each in rounds if each["tested"]]
    return {
        "seeds": [each["seed"] for each in rounds],
        "tested": [each["seed"] for each in tested],
        "networks": {side: _each([r["networks"][side] for r in rounds]) for side in SIDES},
        "maps": {
            name: _with_verdict(_each([each["maps"][name] for each in tested]))
            for name in rounds[0]["maps"]
        },
    }


def _each(rows: list[Results]) -> Results:
    """Every number of `rows` over the trainings; None, of what is not there, does not count."""
    numbers = [
        {key: value for key, value in row.items() if isinstance(value, float)} for row in rows
    ]
    names = dict.fromkeys(name for row in numbers for name in row)
    return {name: over_trainings(row[name] for row in numbers if name in row) for name in names}


def _with_verdict(scores: Results) -> Results:
    return scores | {"would_have_warned": verdict(scores) if scores else NEITHER}


def _compared(mine: list[Results], base: list[Results], margin: float) -> Results:
    """`mine` less `base` where both tested something, over all seeds and over the equal pairs."""
    theirs = {each["seed"]: each for each in base if each["tested"]}
    pairs = [(a, theirs[a["seed"]]) for a in mine if a["tested"] and a["seed"] in theirs]
    equal = [pair for pair in pairs if _gap(*pair) <= margin]
    return {
        "gaps": {str(a["seed"]): _gap(a, b) for a, b in pairs},
        "all": {"seeds": [a["seed"] for a, _ in pairs], "maps": _less(pairs)},
        "equal": {"seeds": [a["seed"] for a, _ in equal], "maps": _less(equal)},
    }


def _gap(a: Results, b: Results) -> float:
    """The larger of the two differences in accuracy: of the reliant networks, of the controls."""
    accuracies = [[x["networks"][side]["accuracy_aligned"] for side in SIDES] for x in (a, b)]
    return max(abs(ours - theirs) for ours, theirs in zip(*accuracies, strict=True))


def _less(pairs: list[tuple[Results, Results]]) -> Results:
    """The differences of each map's alarms over the pairs."""
    names = [name for name in pairs[0][0]["maps"] if name in pairs[0][1]["maps"]] if pairs else []
    differences = {
        name: [{k: a["maps"][name][k] - b["maps"][name][k] for k in ALARMS} for a, b in pairs]
        for name in names
    }
    return {name: _each(rows) for name, rows in differences.items()}


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _means(values: Parts) -> dict[str, float | None]:
    """The means of what is not NaN; None where nothing is."""
    return {
        name: None if value.isnan().all() else float(value.nanmean())
        for name, value in values.items()
    }


def tables(found: Results) -> str:
    """A summary as tables: the networks, each mode's alarms, the modes compared."""
    networks = {
        f"{mode}, {side}": {name: spread(value) for name, value in mine["networks"][side].items()}
        for mode, mine in found["modes"].items()
        for side in SIDES
    }
    parts = {"networks, mean +- sd over the seeds": networks}
    for mode, mine in found["modes"].items():
        parts[f"{mode}: alarms over seeds {mine['tested']}"] = _transposed(mine["maps"])
    for mode, compared in found[f"less_{BASE}"].items():
        for which in ("all", "equal"):
            pairs = compared[which]
            title = f"{mode} less {BASE}, {which} pairs: seeds {pairs['seeds']}"
            parts[title] = _transposed(pairs["maps"])
    texts = {
        title: pd.DataFrame(part).fillna("").to_string() if part else "none"
        for title, part in parts.items()
    }
    return "\n".join(f"\n{title}\n{text}" for title, text in texts.items())


def _transposed(by_map: Results) -> Results:
    """Words for a table with a row a map."""
    keys = dict.fromkeys(key for row in by_map.values() for key in row)
    return {
        key: {name: _words(row[key]) for name, row in by_map.items() if key in row} for key in keys
    }


def _words(value: Any) -> str:
    return value if isinstance(value, str) else with_interval(value)


if __name__ == "__main__":
    main()
