"""Classify the validation split, which chance never touches.

-> metrics/evaluate.json, plots/{confusion,per_class,calibration}.csv
"""

from pathlib import Path

from abn import evaluate, retention
from abn.config.params import Params
from abn.data import packed
from abn.data.loader import CenterCrop
from abn.models import checkpoint
from abn.predict import predict
from abn.project import paths, reports
from abn.project.inputs import Inputs
from abn.project.stage import run
from abn.runtime import device
from abn.tracking import follow


@follow.following()
def main(params: Params, inputs: Inputs) -> None:
    config = params.evaluate
    path = Path(config.checkpoint)
    where = device.choose()
    trained, val = checkpoint.load(path, where), packed.read(paths.VAL_DATA)
    packed.check_classes(val, trained.classes)
    view = CenterCrop(config.size, config.resize)
    found = predict(trained.model, val, view, config.batch_size, where)
    mirrored = predict(trained.model, val, view, config.batch_size, where, mirrored=True)
    metrics = evaluate.scores(found, mirrored)
    inputs.check()
    reports.write_metrics(paths.EVALUATE_METRICS, metrics)
    reports.write_table(paths.CONFUSION, evaluate.confusion(found, val.classes))
    reports.write_table(paths.PER_CLASS, evaluate.per_class(found, val.classes))
    reports.write_table(paths.CALIBRATION, evaluate.calibration(found))
    retention.forget(paths.RESUME, checkpoint.sha256(path))  # DVC is past the training


if __name__ == "__main__":
    run(main)
