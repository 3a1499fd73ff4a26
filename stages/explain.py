"""Score the attention maps: -> metrics/explain.json, plots/explain_*.csv."""

from functools import partial
from pathlib import Path

from abn.config.params import Params
from abn.data import packed
from abn.data.loader import CenterCrop
from abn.explain import counterfactuals
from abn.explain.findings import explain
from abn.models import checkpoint
from abn.project import paths, reports
from abn.project.inputs import Inputs
from abn.project.stage import run
from abn.runtime import device
from abn.tracking import follow


@follow.following()
def main(params: Params, inputs: Inputs) -> None:
    config, drawn, where = params.explain, params.data, device.choose()
    train, val = packed.read(paths.TRAIN_DATA), packed.read(paths.VAL_DATA)
    path, *others = map(Path, (config.checkpoint, *config.siblings))
    trained, *siblings = (checkpoint.load(file, where) for file in (path, *others))
    for network in (trained, *siblings):
        packed.check_classes(val, network.classes)
    view = CenterCrop(params.evaluate.size, params.evaluate.resize)
    rerender = partial(counterfactuals.parts, drawn.shapes, drawn.seed, drawn.size)
    findings = explain(
        trained.model,
        train,
        val,
        view,
        config,
        params.seed,
        siblings=[network.model for network in siblings],
        rerender=rerender if drawn.name == "shapes" else None,
    )
    inputs.check()
    reports.write_metrics(paths.EXPLAIN_METRICS, findings.headline)
    for name, table in findings.tables().items():
        reports.write_table(paths.explain_table(name), table)


if __name__ == "__main__":
    run(main)
