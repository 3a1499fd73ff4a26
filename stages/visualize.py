"""Draw the overlays, the gallery and the report.

-> outputs/abn_attentions.png, outputs/gallery/, outputs/report.html
"""

from dataclasses import replace
from pathlib import Path

from abn.config.params import Params
from abn.data import packed
from abn.data.loader import CenterCrop
from abn.models import checkpoint
from abn.predict import predict
from abn.project import paths, results
from abn.project.inputs import Inputs
from abn.project.stage import run
from abn.runtime import device as devices
from abn.runtime.errors import ParamsError
from abn.tracking import follow
from abn.visualize import figures, fonts, gallery, report
from abn.visualize.overlay import Style
from abn.visualize.provenance import provenance


@follow.following()
def main(params: Params, inputs: Inputs) -> None:
    config = params.visualize
    if config.checkpoint != params.explain.checkpoint:
        raise ParamsError("not explain.checkpoint", "visualize.checkpoint", "name one file in both")
    path = Path(config.checkpoint)
    device = devices.choose()
    trained = checkpoint.load(path, device)
    train, val = packed.read(paths.TRAIN_DATA), packed.read(paths.VAL_DATA)
    trained = checkpoint.for_classes(trained, val.classes, path)
    view = CenterCrop(*(params.evaluate.view or checkpoint.validated(trained, path)))
    measured, scored = results.read(), results.table(paths.explain_table("images"))

    recommended = str(measured.explain["recommended"])
    name = gallery.map_to_draw(config.map, recommended)
    ranks = gallery.map_that_ranks(name, recommended, trained.model.looks)
    style, scored = Style(config.colours, config.alpha), gallery.of_map(scored, name)

    predictions = predict(trained.model, val, view, params.evaluate.batch_size, device)
    choices = gallery.by_srg(scored, val.labels, val.classes)
    choices += gallery.confident_errors(predictions, config.errors)
    paths.OUTPUTS.mkdir(exist_ok=True)
    with fonts.drawing(val.classes) as names:
        shown = replace(val, classes=names)
        first = gallery.first_of_each_class(trained.model, shown, view, config.classes, name)
        figures.save(figures.sheet(first, style, config.dpi), paths.SHEET)
        items = gallery.items(trained.model, shown, view, choices, scored, name, ranks)
        gallery.write(paths.GALLERY, items, style, config.dpi)

    kind = devices.kind(device)
    source = provenance(params, trained, train, val, path, measured.train, kind)
    page = report.render(measured, source, items, config.classes, style, name)
    results.write_text(paths.REPORT, page)
    inputs.check()


if __name__ == "__main__":
    run(main)
