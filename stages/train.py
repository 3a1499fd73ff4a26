"""Fit the network: data/ -> checkpoint/, metrics/train.json, plots/history.csv.

Goes on from .resume/ where the same training was interrupted; ABN_RESUME=never starts afresh.
"""

import os

from abn.params import Params
from stages import paths, run


def main(params: Params) -> None:
    import pandas as pd  # this and torch take seconds: only once the params hold
    import torch

    from abn import checkpoint, data, device, model, progress, resume, tracking
    from abn import train as training
    from stages import reports

    where = device.choose()
    packed = data.read(paths.TRAIN_DATA), data.read(paths.VAL_DATA)
    train, watched = data.hold_out(*packed, params.data.holdout, params.data.seed)
    recipe = params.model_dump(mode="json", include={"arch", "seed", "train"})
    recipe["data"] = params.data.model_dump(include={"holdout", "seed"})
    name = resume.fingerprint(recipe, [s.digest for s in packed], device.describe(where))
    scratch = resume.Scratch(paths.RESUME / name)
    if os.environ.get("ABN_RESUME") == "never":
        scratch.remove()

    torch.manual_seed(params.seed)  # the initial weights; every later draw names its use
    network = model.AttentionBranchNetwork(
        params.arch, len(train.classes), zero_init=params.train.zero_init
    )
    network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    label = f"{params.arch}-s{params.seed}"
    with tracking.run(("abn.training", name), label, system_metrics=True) as mirror:
        mirror.params(params.model_dump(mode="json"))
        mirror.tag(tracking.lineage() | {"device": device.describe(where)})

        def watch(row: resume.Row, speed: float) -> None:
            progress.say(f"{training.describe(row, params.train)}  {speed:.0f} images/s")
            mirror.log(row | {"images_per_second": speed}, step=int(row["epoch"]))

        history = training.fit(network, train, watched, params.train, params.seed, scratch, watch)
        snapshots = {"model": checkpoint.weights(network)} | scratch.snapshots()
        checkpoint.save_all(paths.CHECKPOINT, snapshots, params.arch, train.classes, recipe)
        on = "holdout" if params.data.holdout else "val"
        summary = training.summary(history, params.train, on)
        reports.write_metrics(paths.TRAIN_METRICS, summary)
        reports.write_table(paths.HISTORY, pd.DataFrame(history))
        weights = checkpoint.sha256(paths.CHECKPOINT / paths.MODEL)
        mirror.tag({"weights.sha256": weights, "data.sha256": packed[0].digest})
        for row in history:
            mirror.log(row, step=int(row["epoch"]))
    scratch.remove()


if __name__ == "__main__":
    run(main)
