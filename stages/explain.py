"""Score the attention maps: -> metrics/explain.json, plots/explain_*.csv."""

from functools import partial
from pathlib import Path

from abn.params import Params
from stages import paths, run


def main(params: Params) -> None:
    from abn import checkpoint, data, device
    from abn.batches import View
    from abn.explain import counterfactuals  # torch takes seconds: only now
    from abn.explain.findings import explain
    from stages import mirror, reports

    config, shown, where = params.explain, params.data, device.choose()
    path = Path(config.checkpoint)
    trained, siblings = (
        checkpoint.load(path, where),
        [checkpoint.load(Path(other), where).model for other in config.siblings],
    )
    train, val = data.read(paths.TRAIN_DATA), data.read(paths.VAL_DATA)
    data.check_classes(val, trained.classes)
    view = View(params.evaluate.size, params.evaluate.resize)
    rerender = partial(counterfactuals.parts, shown.shapes, shown.seed, shown.size)
    findings = explain(
        trained.model,
        train,
        val,
        view,
        config,
        params.seed,
        siblings,
        rerender if shown.name == "shapes" else None,
    )
    reports.write_metrics(paths.EXPLAIN_METRICS, findings.headline)
    for name, table in findings.tables().items():
        reports.write_table(paths.explain_table(name), table)
    with mirror.run_of(path, trained) as tracked:
        numbers = {k: v for k, v in findings.headline.items() if not isinstance(v, str)}
        tracked.log({f"explain/{name}": value for name, value in numbers.items()})
        tracked.tag({"explain.verdict": str(findings.headline["verdict"])})


if __name__ == "__main__":
    run(main)
