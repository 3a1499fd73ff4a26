"""Would the map have warned? A shortcut is built in, so it is known which network relies on it.

    python -m benchmarks.shortcut --seeds 0 1 2

The network of presets/shortcut.yaml learns the set `shapes` twice. Once a patch at the border has
the colour of the class (--rho), once its colour is random (--control). Rendering the validation
pictures again with one thing changed measures which network relies on the patch. A map raises its
alarm where it is denser on the patch than on the target. It would have warned if it does so on the
reliant network, and clearly less often on the control.

Maps and importance are those of the predicted class, on pictures whose patch shows their class.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from abn.config.params import Data, Params, Shapes, load
from abn.data import packed
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.datasets import pack, shapes
from abn.explain import counterfactuals, maps
from abn.explain.case import Samples, collect
from abn.explain.statistics import Interval, bootstrap
from abn.models.abn import AttentionBranchNetwork
from abn.predict import predict
from abn.runtime import progress
from abn.runtime.rng import generator
from abn.training import loop
from benchmarks import measure, ours

BATCH = 50  # images looked at once
NEITHER = "not tested: the two networks do not differ in what they rely on"
BLIND = "no: its alarm does not tell the reliant network from the control"
SILENT = "no: silent on most images of the reliant network"
WARNED = "yes"
INTERVALS = ("hits", "false_alarms", "auroc")
Parts = dict[str, Tensor]  # a value [N] for each part of N pictures
Results = dict[str, Any]


class Pictures(NamedTuple):
    """The same N pictures in every way they are shown; canvases are uint8 [N, S, S, 3]."""

    aligned: Split  # the patch in the colour of the picture's class
    without: dict[str, Tensor]  # `aligned` without each part
    conflict: Tensor  # the patch in another class's colour
    shown: Tensor  # int64 [N]: that class


class Examined(NamedTuple):
    """What one network makes of the pictures."""

    behaviour: dict[str, float]  # accuracies and reliance
    importance: Parts
    density: dict[str, Parts]  # by map


def main() -> None:
    parser = measure.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--params", type=Path, default=Path("presets/shortcut.yaml"), help="the recipe"
    )
    parser.add_argument("--rho", type=float, default=0.95, help="how often it shows the class")
    parser.add_argument("--control", type=float, default=0.1, help="and to the control network")
    parser.add_argument("--images", type=int, default=500, help="pictures to ask about")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    options = parser.parse_args()
    params = load(options.params)
    recipe = params.model_dump(mode="json", include={"arch", "data", "train"})
    pictures, runs = _pictures(params.data, options.images), list[Results]()
    for seed in options.seeds:
        run = rehearse(params, pictures, options.rho, options.control, seed)
        print(_tables(run), flush=True)
        runs.append(run)
        measure.save(options.out, "shortcut", vars(options) | {"recipe": recipe}, {"runs": runs})


def rehearse(params: Params, pictures: Pictures, rho: float, control: float, seed: int) -> Results:
    """What both networks rely on, trained from one seed, and what each map says of it."""
    view = CenterCrop(params.evaluate.size, params.evaluate.resize)
    taught, other = (
        _examined(_trained(params, chance, seed), pictures, view, seed) for chance in (rho, control)
    )
    tested = taught.behaviour["reliance"] >= 0.5 > other.behaviour["reliance"]
    return {
        "seed": seed,
        "networks": {"reliant": _summary(taught), "control": _summary(other)},
        "maps": {
            name: alarms(taught.density[name], other.density[name], tested, seed)
            for name in taught.density
        },
    }


def alarms(reliant: Parts, control: Parts, tested: bool, seed: int) -> Results:
    """How a map's densities differ between the networks, and whether it would have warned.

    A flat map, whose density is NaN, raises no alarm; its density on the patch counts as chance, 1.
    """

    def interval(values: Tensor) -> Interval:
        return bootstrap(values, generator(seed, "shortcut", "interval"))

    hits, false = (interval((x["patch"] > x["target"]).double()) for x in (reliant, control))
    return {
        "density": {"reliant": _means(reliant), "control": _means(control)},
        "hits": hits,
        "false_alarms": false,
        "auroc": interval(_placements(reliant["patch"], control["patch"])),
        "would_have_warned": verdict(hits, false) if tested else NEITHER,
    }


def verdict(hits: Interval, false_alarms: Interval) -> str:
    """In words: alarms clearly more often than on the control, and on half of the images."""
    (rate, low, _), (_, _, high) = hits, false_alarms
    if low <= high:
        return BLIND
    return WARNED if rate >= 0.5 else SILENT


def _placements(reliant: Tensor, control: Tensor) -> Tensor:
    """What each image adds, [N], to AUROC: the chance that the higher value is a reliant network's.

    Placement values (DeLong et al., 1988). Entry i of both is of the same image, so resampling
    images keeps the pairs.
    """
    above, below = (values.nan_to_num(1.0) for values in (reliant, control))
    wins = ((above[:, None] > below).double() + (above[:, None] >= below)) / 2
    return wins.mean(1) + wins.mean(0) - wins.mean()


def _pictures(config: Data, count: int) -> Pictures:
    index = torch.arange(count)
    telling = config.shapes.model_copy(update={"shortcut": 1.0})
    labels, shown = index % len(shapes.CLASSES), conflicting(index)
    whole, masks, without = counterfactuals.parts(telling, config.seed, config.size, index)
    conflict = recoloured(telling, config, index, shown)
    aligned = Split(whole, labels, torch.ones(count), masks, shapes.CLASSES, "shapes", "")
    return Pictures(aligned, without, conflict, shown)


def recoloured(looks: Shapes, config: Data, index: Tensor, classes: Tensor) -> Tensor:
    """The validation pictures at `index`, with the patch in the colours of `classes` int64 [N]."""
    pairs = zip(index.tolist(), classes.tolist(), strict=True)
    samples = [shapes.render(config.seed, "val", i, config.size, looks, colour=c) for i, c in pairs]
    return torch.from_numpy(np.stack([sample.image for sample in samples]))


def conflicting(index: Tensor) -> Tensor:
    """A wrong class int64 [N] for each picture: each of the nine others in turn."""
    count = len(shapes.CLASSES)
    return (index + 1 + index // count % (count - 1)) % count


def reliance(
    aligned: Tensor, conflict: Tensor, removed: Tensor, labels: Tensor, shown: Tensor
) -> dict[str, float]:
    """Accuracy by the patch's colour, and how often the network follows it; logits are [N, K].

    aligned: its colour is that of the class; conflict: of the class `shown` [N]; removed: no patch.
    reliance: the share of the conflicts in which the prediction is the patch's class.
    """
    answers = {"aligned": aligned, "conflict": conflict, "removed": removed}
    accuracies = {f"accuracy_{name}": _share(logits, labels) for name, logits in answers.items()}
    return accuracies | {"reliance": _share(conflict, shown)}


def _share(logits: Tensor, classes: Tensor) -> float:
    return float((logits.argmax(1) == classes).double().mean())


def _trained(params: Params, chance: float, seed: int) -> AttentionBranchNetwork:
    """A network trained on patches of which the share `chance` show the class."""
    looks = params.data.shapes.model_copy(update={"shortcut": chance})
    config = params.data.model_copy(update={"name": "shapes", "shapes": looks})

    progress.say(f"patch shows the class at {chance}")
    with measure.workspace() as folder:
        files = {split: folder / split for split in ("train", "val")}
        pack.pack(pack.open_source(config, folder), config.size, files)
        splits = packed.read(files["train"]), packed.read(files["val"])
        train, val = packed.hold_out(*splits, config.holdout, config.seed)
        model = ours.network(params.arch, len(train.classes), params.train, seed)
        loop.fit(model, train, val, params.train, seed=seed)
    return model.eval()


def _examined(
    model: AttentionBranchNetwork, pictures: Pictures, view: CenterCrop, seed: int
) -> Examined:
    device = next(model.parameters()).device

    def logits(canvases: Tensor) -> Tensor:
        shown = dataclasses.replace(pictures.aligned, images=canvases)
        return predict(model, shown, view, BATCH, device).logits

    labels = pictures.aligned.labels
    samples = collect(model, pictures.aligned, torch.arange(len(labels)), view)
    assert samples.masks is not None
    masks = counterfactuals.regions(samples.masks.cpu(), pictures.without)
    whole, conflict = logits(pictures.aligned.images), logits(pictures.conflict)
    without = {part: logits(canvases) for part, canvases in pictures.without.items()}
    drawn = _maps(model, samples, seed)
    return Examined(
        reliance(whole, conflict, without["patch"], labels, pictures.shown),
        counterfactuals.importance(whole, without, whole.argmax(1), masks),
        {name: counterfactuals.density(each, masks) for name, each in drawn.items()},
    )


def _maps(model: AttentionBranchNetwork, samples: Samples, seed: int) -> dict[str, Tensor]:
    """Every map of the predicted classes and the two blind controls, each [N, h, w] on the CPU."""
    own = maps.explainer(model, samples.predicted)(samples.images)
    drawn = {name: values.cpu() for name, values in own.items()}
    n, h, w = samples.attention.shape
    drawn["centre"] = maps.centre_maps(n, h, w)
    drawn["random"] = maps.random_maps(n, h, w, generator(seed, "shortcut", "noise"))
    return drawn


def _summary(network: Examined) -> Results:
    agreed = {
        name: counterfactuals.agreement(network.importance, density)
        for name, density in network.density.items()
    }
    means = {"importance": _means(network.importance), "agreement": _means(agreed)}
    return network.behaviour | means


def _means(values: Parts) -> dict[str, float | None]:
    """The means of what is not NaN; None where nothing is."""
    return {
        name: None if value.isnan().all() else float(value.nanmean())
        for name, value in values.items()
    }


def _tables(run: Results) -> str:
    """A run in three tables: the networks, the maps' densities on each part, their alarms."""
    networks = {
        f"{side} network": {
            **row,
            **{f"importance of {k}": v for k, v in row["importance"].items()},
        }
        for side, row in run["networks"].items()
    }
    scores = run["maps"]
    densities = {name: _pairs(**row["density"]) for name, row in scores.items()}
    alarmed = {
        name: {key: "{:.2f} [{:.2f}, {:.2f}]".format(*row[key]) for key in INTERVALS}
        | {"would have warned": row["would_have_warned"]}
        for name, row in scores.items()
    }
    tables = {
        f"seed {run['seed']}": pd.DataFrame(networks).drop(index=["importance", "agreement"]),
        "density of the maps, reliant / control network": pd.DataFrame(densities).T,
        "alarm: denser on the patch than on the target": pd.DataFrame(alarmed).T,
    }
    return "\n".join(f"\n{title}\n{table.to_string()}" for title, table in tables.items())


def _pairs(reliant: dict[str, float | None], control: dict[str, float | None]) -> dict[str, str]:
    return {part: f"{_number(reliant[part])} / {_number(control[part])}" for part in reliant}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
