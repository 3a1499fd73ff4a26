"""Train the network: data/ -> checkpoint/, metrics/train.json, plots/history.csv.

Continues from .resume/ where the same training was interrupted; ABN_RESUME=never starts again.
ABN_PROCESSES=N trains in N processes, one for each GPU.
"""

import os
from contextlib import nullcontext

import pandas as pd
import torch

from abn.config.params import Params
from abn.data import packed
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.project import paths, results
from abn.project.inputs import Inputs
from abn.project.stage import run
from abn.runtime import device as devices
from abn.runtime import launch, progress
from abn.runtime.signals import GracefulStop
from abn.tracking import follow, outbox
from abn.training import distributed, loop, pretrained, resume
from abn.training.distributed import World
from abn.training.pretrained import Start


def main(params: Params, inputs: Inputs) -> None:
    if (processes := launch.processes()) > 1:
        launch.run("stages.train", processes)
        return
    with distributed.world() as world, GracefulStop(ignore=not world.is_main).install() as stop:
        if not world.is_main:
            progress.silence()
            os.environ["ABN_TRACKING"] = "off"
        train(params, inputs, world, stop)


def train(params: Params, inputs: Inputs, world: World, stop: GracefulStop) -> None:
    """What each rank of `world` does; rank 0 writes."""
    device = devices.choose(world.local_rank)
    splits = packed.read(paths.TRAIN_DATA), packed.read(paths.VAL_DATA)
    train, val = packed.hold_out(*splits, params.data.holdout, params.data.seed)
    data = [checkpoint.sha256(path) for path in (paths.TRAIN_DATA, paths.VAL_DATA)]
    start = pretrained.read(params.train, params.arch, paths.ROOT)
    data += [start.sha256] if start else []
    machine = [*devices.identity(device), f"{world.size} processes"]
    name = resume.fingerprint(inputs.params, inputs.code, data, machine)
    world.require_same(name, device)
    classes = train.classes
    model, new = network(params, classes, start)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    processor = devices.exact(device, world.size)
    described = params.model_dump(mode="json"), {"device": processor}
    with (
        resume.open_store(paths.RESUME / name) if world.is_main else nullcontext() as store,
        follow.following(),
        outbox.training(name, *described) as note,
    ):
        history = loop.fit(
            model,
            train,
            val,
            params.train,
            seed=params.seed,
            world=world,
            resume=store,
            stop=stop,
            on_epoch=lambda row, speed: note(
                "row", results.rounded(row | {"images_per_second": speed})
            ),
            new=new,
        )
        unlike = loop.unlike_below(model, val, params.train, world)
        inputs.check()
        if store:
            snapshots = {checkpoint.FINAL: checkpoint.weights(model)} | store.snapshots()
            recipe = checkpoint.recipe(params)
            canvas = train.images.shape[1]
            checkpoint.save_all(paths.CHECKPOINT, snapshots, classes, recipe, canvas, unlike)
            val_name = "holdout" if params.data.holdout else "val"
            scores = loop.summary(history, params.train, val_name)
            scores |= {"device": processor}
            results.write_metrics(paths.TRAIN_METRICS, scores)
            results.write_table(paths.HISTORY, pd.DataFrame(history))
            weights = checkpoint.sha256(paths.CHECKPOINT / paths.MODEL)
            note("end", {"weights.sha256": weights, "data.sha256": splits[0].digest})
            store.mark_done()


def network(
    params: Params, classes: tuple[str, ...], start: Start | None
) -> tuple[AttentionBranchNetwork, frozenset[str]]:
    """The network to train, filled from `start`, and its parameters that a start left new."""
    config = params.train
    torch.manual_seed(params.seed)  # of the initial weights; every later draw names its use
    how = config.zero_init, params.attention, config.look.contrast
    model = AttentionBranchNetwork(params.arch, len(classes), *how, smooth=params.smooth)
    filled = pretrained.fill(model, classes, start) if start else None
    if start and filled:
        for line in (f"init {start.origin}", *filled.lines()):
            progress.say(line)
    pretrained.freeze(model, config.freeze)
    return model, pretrained.new_parameters(model, filled)


if __name__ == "__main__":
    run(main)
