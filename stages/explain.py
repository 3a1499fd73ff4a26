"""Score the attention maps: -> metrics/explain.json, plots/explain_{maps,curves}.csv."""

from pathlib import Path

from abn.params import Params
from stages import paths, run


def main(params: Params) -> None:
    from abn import checkpoint, data, device  # torch takes seconds: only now
    from abn.batches import View
    from abn.explain import explain
    from stages import mirror, reports

    path = Path(params.explain.checkpoint)
    trained, val = checkpoint.load(path, device.choose()), data.read(paths.VAL_DATA)
    data.check_classes(val, trained.classes)
    view = View(params.evaluate.size, params.evaluate.resize)
    headline, maps, curves = explain(trained.model, val, view, params.explain, params.seed)
    reports.write_metrics(paths.EXPLAIN_METRICS, headline)
    reports.write_table(paths.EXPLAIN_MAPS, maps)
    reports.write_table(paths.EXPLAIN_CURVES, curves)
    with mirror.run_of(path, trained) as tracked:
        tracked.log({f"explain/{name}": value for name, value in headline.items()})


if __name__ == "__main__":
    run(main)
