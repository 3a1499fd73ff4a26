"""Fit the network: data/ -> checkpoint/, metrics/train.json, plots/history.csv.

Goes on from .resume/ where the same training was interrupted; ABN_RESUME=never starts afresh.
ABN_PROCESSES=N trains in N processes, one for each GPU.
"""

import os

import pandas as pd
import torch

from abn.config.params import Params
from abn.data import packed
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.project import paths, reports
from abn.project.inputs import Inputs
from abn.project.stage import run
from abn.runtime import device, launch, progress
from abn.runtime.errors import ChangedError
from abn.runtime.signals import Stopper
from abn.tracking import follow, outbox
from abn.training import distributed, loop, resume
from abn.training.distributed import World


def main(params: Params, inputs: Inputs) -> None:
    if (processes := launch.processes()) > 1:
        launch.run("stages.train", processes)
        return
    with distributed.world() as world, Stopper(patient=not world.is_main).listening() as stopper:
        if not world.is_main:
            progress.silence()
            os.environ["ABN_TRACKING"] = "off"
        train(params, inputs, world, stopper)


def train(params: Params, inputs: Inputs, world: World, stopper: Stopper) -> None:
    """What each process of `world` does; the main one writes."""
    where = device.choose(world.local_rank)
    splits = packed.read(paths.TRAIN_DATA), packed.read(paths.VAL_DATA)
    learned, watched = packed.hold_out(*splits, params.data.holdout, params.data.seed)
    digests = [checkpoint.sha256(path) for path in (paths.TRAIN_DATA, paths.VAL_DATA)]
    machine = [*device.identity(where), f"{world.size} processes"]
    name = resume.fingerprint(inputs.params, inputs.code, digests, machine)
    if not world.agrees(name, where):
        what = "not the params, code, data, versions or kind of machine of rank 0"
        raise ChangedError(what, f"rank {world.rank}", "make them the same everywhere")

    torch.manual_seed(params.seed)  # the initial weights; every later draw names its use
    network = AttentionBranchNetwork(
        params.arch, len(learned.classes), zero_init=params.train.zero_init
    )
    network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    described = params.model_dump(mode="json"), {"device": device.describe(where)}
    with (
        resume.training(paths.RESUME / name, world, stopper) as scratch,
        follow.following(),
        outbox.training(name, *described) as note,
    ):

        def watch(row: resume.Row, speed: float) -> None:
            progress.say(f"{loop.describe(row, params.train)}  {speed:.0f} images/s")
            note("row", row | {"images_per_second": speed})

        history = loop.fit(network, learned, watched, params.train, params.seed, scratch, watch)
        inputs.check()
        if not world.is_main:
            return
        recipe = params.model_dump(mode="json", include={"arch", "seed", "train"})
        recipe["data"] = params.data.model_dump(include={"holdout", "seed"})
        snapshots = {"model": checkpoint.weights(network)} | scratch.snapshots()
        checkpoint.save_all(paths.CHECKPOINT, snapshots, params.arch, learned.classes, recipe)
        on = "holdout" if params.data.holdout else "val"
        reports.write_metrics(paths.TRAIN_METRICS, loop.summary(history, params.train, on))
        reports.write_table(paths.HISTORY, pd.DataFrame(history))
        weights = checkpoint.sha256(paths.CHECKPOINT / paths.MODEL)
        note("end", {"weights.sha256": weights, "data.sha256": splits[0].digest})
        scratch.finish(paths.CHECKPOINT / paths.MODEL)


if __name__ == "__main__":
    run(main)
