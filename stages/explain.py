"""Score the attention maps: -> metrics/explain.json, plots/explain_*.csv."""

from functools import partial
from pathlib import Path

from abn.config.params import Params
from abn.data import packed
from abn.data.loader import CenterCrop
from abn.explain import counterfactuals
from abn.explain.protocol import explain
from abn.models import checkpoint
from abn.project import paths, results
from abn.project.inputs import Inputs
from abn.project.stage import run
from abn.runtime import device
from abn.tracking import follow


@follow.following()
def main(params: Params, inputs: Inputs) -> None:
    config, data = params.explain, params.data
    train, val = packed.read(paths.TRAIN_DATA), packed.read(paths.VAL_DATA)
    path, processor = Path(config.checkpoint), device.choose()
    trained, *siblings = (
        checkpoint.for_classes(checkpoint.load(file, processor), val.classes, file)
        for file in (path, *map(Path, config.siblings))
    )
    rerender = partial(counterfactuals.parts, data.shapes, data.seed, data.size)
    explanation = explain(
        trained.model,
        train,
        val,
        CenterCrop(*(params.evaluate.view or checkpoint.validated(trained, path))),
        config,
        siblings=[network.model for network in siblings],
        rerender=rerender if data.name == "shapes" else None,
    )
    inputs.check()
    weights = {"weights": checkpoint.sha256(path)}  # what the verdict is on
    results.write_metrics(paths.EXPLAIN_METRICS, explanation.headline | weights)
    for name, table in explanation.tables().items():
        results.write_table(paths.explain_table(name), table)


if __name__ == "__main__":
    run(main)
