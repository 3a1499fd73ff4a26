"""Draw where the network looked, one image per class: -> outputs/PREFIX_attentions.png.

`python -m stages.visualize --show` also opens the picture in a window.
"""

import sys
from pathlib import Path

from abn.params import Params
from stages import paths, run


def main(params: Params) -> None:
    from abn import checkpoint, data, device, gallery, visualize, window  # torch takes seconds
    from abn.batches import View
    from stages import mirror

    config = params.visualize
    path = Path(config.checkpoint)
    trained, val = checkpoint.load(path, device.choose()), data.read(paths.VAL_DATA)
    data.check_classes(val, trained.classes)
    view = View(params.evaluate.size, params.evaluate.resize)
    tiles = gallery.first_of_each_class(trained.model, val, view, config.classes)
    paths.OUTPUTS.mkdir(exist_ok=True)
    picture = paths.OUTPUTS / f"{config.prefix}_attentions.png"
    visualize.save(visualize.sheet(tiles, config.alpha, config.dpi), picture)
    with mirror.run_of(path, trained) as tracked:
        tracked.artifact(picture)
    if "--show" in sys.argv[1:]:
        window.show(picture)


if __name__ == "__main__":
    run(main)
