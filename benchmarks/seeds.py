"""Trainings, not only pictures: every number of the graph over several seeds, mean and sd.

    python -m benchmarks.seeds --attention residual look --seeds 42 43 44 --images 200

An interval in metrics/explain.json is about pictures: one network, other images. This is about
networks: the same data, another draw of the initial weights, the order and the augmentation. For
each mode and seed the network is trained as the train stage does (the same seed gives the same
bytes as `dvc exp run -S attention=MODE -S seed=SEED`), evaluated on the whole validation split, and
explained with the networks of the mode's other seeds as its siblings: `stable` is measured.

--out/seeds-LABEL.json has each training and what it cost, the verdicts, and of each number the
mean, sd and 95 % t interval over the trainings; also of the differences to the first mode, seed by
seed. Two or three seeds make wide intervals: they say what three trainings can say.

A killed run goes on with the same command: --work keeps data, networks, states on the way and what
was measured. More seeds or modes are added in the same way. Two processes may share the folder if
they train other seeds. Examples:

    # what a change of the recipe does, under a name of its own
    python -m benchmarks.seeds --attention look -S train.epochs=6 --label six-epochs

    # photographs, from an Imagenette archive that is already here
    python -m benchmarks.seeds --params presets/imagenette-cpu.yaml --photos imagenette2-160.tgz
"""

import argparse
import hashlib
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from abn.config.params import Params
from abn.data.loader import CenterCrop
from abn.evaluate import scores
from abn.explain import counterfactuals
from abn.explain.protocol import explain
from abn.predict import predict
from abn.runtime import device
from abn.training import resume
from benchmarks import kept, measure
from benchmarks.kept import Splits, Training
from benchmarks.measure import spread, with_interval

# The code that the scores of a network depend on.
EXAMINING = ("data", "datasets", "models", "explain", "evaluate.py", "predict.py")
Row = dict[str, Any]  # of a training


def main() -> None:
    options = _parser().parse_args()
    with measure.for_people():
        jobs = _jobs(options)
        trainings = dict(zip(jobs, kept.train_all(jobs, options.work), strict=True))
        rows: list[Row] = []
        for name, (params, splits) in jobs.items():
            alike = (key for key, job in jobs.items() if job[0].attention == params.attention)
            siblings = [trainings[other] for other in alike if other != name]
            rows.append(examine(params, splits, trainings[name], siblings, options.work))
            settings = kept.settings(options, kept.recipe(params, "attention", "seed"))
            label = options.label or options.params.stem
            results = {"trainings": rows, "summary": summary(rows)}
            measure.save(options.out, f"seeds-{label}", settings, results)
        print(tables(rows))


def examine(
    params: Params, splits: Splits, training: Training, siblings: list[Training], work: Path
) -> Row:
    """What the stages train, evaluate and explain have in their metrics, by stage."""
    weights = [training.row()["weights"], *(sibling.row()["weights"] for sibling in siblings)]
    about = kept.recipe(params), weights, kept.code(*EXAMINING), kept.machine()
    path = work / "found" / f"{resume.fingerprint(*about)}.json"
    found = kept.measured(path, lambda: _metrics(params, splits, training, siblings))
    return {"attention": params.attention, "seed": params.seed, "train": training.row()} | found


def summary(rows: list[Row]) -> dict[str, Any]:
    """Verdicts and numbers of each mode over its trainings, and the other modes less the first."""
    modes = {row["attention"]: None for row in rows}
    by_mode = {mode: [row for row in rows if row["attention"] == mode] for mode in modes}
    first, *others = by_mode.values()
    return {
        "modes": {mode: _mode(mine) for mode, mine in by_mode.items()},
        "less_the_first": {mine[0]["attention"]: _differences(mine, first) for mine in others},
    }


def numbers(row: Row) -> dict[str, float]:
    """All numbers of a training as "stage.name"."""
    return {
        f"{stage}.{name}": value
        for stage in ("train", "evaluate", "explain")
        for name, value in row[stage].items()
        if isinstance(value, int | float)
    }


def tables(rows: list[Row]) -> str:
    """The trainings one by one, the gates, and all numbers as mean +- sd."""
    found = summary(rows)
    modes, differences = found["modes"], found["less_the_first"]
    one_by_one = [
        {
            "attention": row["attention"],
            "seed": row["seed"],
            "verdict": row["explain"]["verdict"],
            "top-1": f"{row['evaluate']['top1']:.4f}",
            "CPU s": f"{row['train']['cpu_seconds']:.0f}",
        }
        for row in rows
    ]
    columns = {mode: {k: spread(v) for k, v in m["numbers"].items()} for mode, m in modes.items()}
    for mode, compared in differences.items():
        pairs = compared["numbers"].items()
        columns[f"{mode} less {next(iter(modes))}"] = {name: with_interval(v) for name, v in pairs}
    parts = [
        pd.DataFrame(one_by_one).to_string(index=False),
        pd.DataFrame({mode: m["words"] for mode, m in modes.items()}).map(_counts).to_string(),
        pd.DataFrame(columns).fillna("").to_string(),
    ]
    parts += [
        f"CPU time of a training, {m}: {spread(d['cpu_ratio'])} x" for m, d in differences.items()
    ]
    return "\n\n".join(parts)


def _parser() -> argparse.ArgumentParser:
    parser = kept.parser(__doc__, Path("params.yaml"), seeds=[42, 43, 44])
    add = parser.add_argument
    add("--images", type=int, help="validation images to explain (explain.images)")
    add("--photos", type=Path, help="an Imagenette archive that is here (data.url, data.md5)")
    add("--label", help="the record is seeds-LABEL.json; default: the name of --params")
    return parser


def _jobs(options: argparse.Namespace) -> dict[str, kept.Job]:
    """What to train, by a name for the console; all modes of a seed before the next seed."""
    own: dict[str, Any] = {"explain.images": options.images} if options.images else {}
    if options.photos:
        with options.photos.open("rb") as file:
            md5 = hashlib.file_digest(file, "md5").hexdigest()
        own |= {"data.url": str(options.photos), "data.md5": md5}
    wanted = {
        f"{mode}, seed {seed}": kept.params(options, attention=mode, seed=seed, **own)
        for seed, mode in itertools.product(options.seeds, options.attention)
    }
    splits = kept.data(next(iter(wanted.values())).data, options.work)
    return {name: (params, splits) for name, params in wanted.items()}


def _metrics(
    params: Params, splits: Splits, training: Training, siblings: list[Training]
) -> dict[str, Any]:
    """The stages evaluate and explain."""
    model, (train, val), config = training.network(), splits, params.evaluate
    view, place = CenterCrop(*(config.view or params.train.view)), device.choose()
    plain, mirrored = (
        predict(model, val, view, config.batch_size, place, mirrored=mirrored)
        for mirrored in (False, True)
    )
    drawn = params.data.shapes, params.data.seed, params.data.size
    explained = explain(
        model,
        train,
        val,
        view,
        params.explain,
        siblings=[sibling.network() for sibling in siblings],
        rerender=partial(counterfactuals.parts, *drawn) if params.data.name == "shapes" else None,
    )
    return {"evaluate": scores(plain, mirrored), "explain": explained.headline}


def _mode(rows: list[Row]) -> dict[str, Any]:
    """How often each verdict and outcome came, and each number over the trainings."""
    each = [numbers(row) for row in rows]
    words = [{k: v for k, v in row["explain"].items() if isinstance(v, str)} for row in rows]
    return {
        "words": {name: _tally([said.get(name) for said in words]) for name in words[0]},
        "numbers": {name: _over(each, name) for name in each[0]},
    }


def _differences(mine: list[Row], first: list[Row]) -> dict[str, Any]:
    """Numbers less those of the same seed in the first mode; the CPU time as a ratio."""
    theirs = {row["seed"]: numbers(row) for row in first}
    pairs = [(numbers(row), theirs[row["seed"]]) for row in mine if row["seed"] in theirs]
    cpu = "train.cpu_seconds"
    both = [{k: a[k] - b[k] for k in a if k in b} for a, b in pairs]
    return {
        "cpu_ratio": measure.over_trainings(a[cpu] / b[cpu] for a, b in pairs),
        "numbers": {name: _over(both, name) for name in (both[0] if both else ())},
    }


def _over(each: list[dict[str, float]], name: str) -> dict[str, Any]:
    return measure.over_trainings(row[name] for row in each if name in row)


def _tally(words: list[str | None]) -> dict[str, int]:
    return {word: words.count(word) for word in dict.fromkeys(words) if word is not None}


def _counts(tally: Any) -> str:
    if not isinstance(tally, dict):  # NaN: the other mode alone has this gate
        return ""
    return ", ".join(f"{count} {word}" for word, count in tally.items())


if __name__ == "__main__":
    main()
