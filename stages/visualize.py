"""Pictures for people: -> outputs/PREFIX_attentions.png, outputs/gallery/, outputs/report.html."""

from pathlib import Path

from abn import retention
from abn.config.params import Params
from abn.data import packed
from abn.data.loader import CenterCrop
from abn.models import checkpoint
from abn.predict import predict
from abn.project import paths, reports, results
from abn.project.inputs import Inputs
from abn.project.stage import run
from abn.runtime import device
from abn.runtime.errors import ParamsError
from abn.tracking import follow
from abn.visualize import gallery, origin, overlays, report


@follow.following()
def main(params: Params, inputs: Inputs) -> None:
    config = params.visualize
    if config.checkpoint != params.explain.checkpoint:
        raise ParamsError("not explain.checkpoint", "visualize.checkpoint", "name one file in both")
    path, where = Path(config.checkpoint), device.choose()
    trained = checkpoint.load(path, where)
    train, val = packed.read(paths.TRAIN_DATA), packed.read(paths.VAL_DATA)
    packed.check_classes(val, trained.classes)
    view = CenterCrop(params.evaluate.size, params.evaluate.resize)
    found, scored = results.read(), results.table(paths.explain_table("images"))

    paths.OUTPUTS.mkdir(exist_ok=True)
    sheet = paths.OUTPUTS / f"{config.prefix}_attentions.png"
    tiles = gallery.first_of_each_class(trained.model, val, view, config.classes)
    overlays.save(overlays.sheet(tiles, config.alpha, config.dpi), sheet)

    said = predict(trained.model, val, view, params.evaluate.batch_size, where)
    choices = gallery.by_srg(scored, val.labels, val.classes)
    choices += gallery.confident_errors(said, config.errors)
    exhibits = gallery.exhibits(trained.model, val, view, choices, scored)
    gallery.write(paths.GALLERY, exhibits, config.alpha, config.dpi)

    weights, selected_on = checkpoint.sha256(path), str(found.train["selected_on"])
    traced = origin.trace(params, trained, train, val, weights, selected_on)
    page = report.render(found, traced, exhibits, config.classes, config.alpha)
    reports.write_text(paths.REPORT, page)
    inputs.check()
    retention.forget(paths.RESUME, weights)  # where nothing was left to evaluate


if __name__ == "__main__":
    run(main)
