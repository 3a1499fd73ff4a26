"""Classify the validation split, without augmentation.

-> metrics/evaluate.json, plots/{confusion,per_class,calibration,predictions}.csv
"""

from pathlib import Path

from abn import evaluate
from abn.config.params import Params
from abn.data import packed
from abn.data.loader import CenterCrop
from abn.models import checkpoint
from abn.predict import predict
from abn.project import paths, results
from abn.project.inputs import Inputs
from abn.project.stage import run
from abn.runtime import device as devices
from abn.tracking import follow


@follow.following()
def main(params: Params, inputs: Inputs) -> None:
    config = params.evaluate
    path = Path(config.checkpoint)
    device = devices.choose()
    trained, val = checkpoint.load(path, device), packed.read(paths.VAL_DATA)
    trained = checkpoint.for_classes(trained, val.classes, path)
    view = CenterCrop(*(config.view or checkpoint.validated(trained, path)))
    plain, mirrored = (
        predict(trained.model, val, view, config.batch_size, device, mirrored=mirrored)
        for mirrored in (False, True)
    )
    metrics = evaluate.scores(plain, mirrored)
    inputs.check()
    results.write_metrics(paths.EVALUATE_METRICS, metrics)
    results.write_table(paths.CONFUSION, evaluate.confusion(plain, val.classes))
    results.write_table(paths.PER_CLASS, evaluate.per_class(plain, val.classes))
    results.write_table(paths.CALIBRATION, evaluate.calibration(plain))
    results.write_table(paths.PREDICTIONS, evaluate.per_image(plain, val.classes, val.files))


if __name__ == "__main__":
    run(main)
