"""What does the network say of an image if its map is another one?

The network decides under its map, so the map can be edited, and the answer may change (Mitsuhara et
al., 2019, 1905.03540). --attention says what takes the map's place:

    none      no map: nothing is raised, nothing hidden
    mean      its mean everywhere
    shuffle   its cells in another order, drawn from --seed
    invert    where it was highest it is lowest
    FILE.png  what you painted over the image, at the image's size: white is 1, black is 0

It prints the answer before and after. --to writes a picture: the image under the network's map on
the left, under the other map on the right, each map in its own range of colours. The attention
branch answers before the map acts, so only the perception branch's answer changes.

--json prints one object: file, attention, changed, and before and after, each with prediction,
confidence, classes and map (rows of cells).

Whether the map explains this network's decisions at all is another question: `dvc repro explain`
measures it over many images.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from abn.cli.predict import TOP, add_checkpoint, in_words, open_network
from abn.inference import edit
from abn.inference.prediction import Prediction
from abn.runtime import files
from abn.runtime.errors import DataError, DiskError

HELP = "ask what the network says of an image if its map is another one"
NEEDS_PROJECT = False


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("image", metavar="IMAGE", type=Path)
    words = f"{', '.join(edit.WORDS)}, or a picture"
    parser.add_argument("--attention", required=True, metavar="MAP", help=words)
    add_checkpoint(parser)
    parser.add_argument("--seed", type=int, default=0, help="of shuffle; the default is 0")
    parser.add_argument("--to", metavar="PICTURE.png", type=Path, help="a new file for the picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Print the answer before and after; 0."""
    if options.seed < 0:
        raise DataError("a seed below 0", f"--seed {options.seed}", "use a whole number from 0")
    if options.to:
        _require_new(options.to)
    model = open_network(options.checkpoint)
    before = model.predict(options.image, TOP)
    values = edit.edited(options.attention, before, model.network.looks, options.seed)
    after = model.decide(options.image, values, TOP)
    if options.to:
        with files.writing(options.to), files.replacing(options.to) as part:
            edit.side_by_side(before, after).save(part, "PNG")
    if options.json:
        print(json.dumps(_as_object(options, before, after)))
    else:
        print(f"before: {in_words(before)}")
        print(f"after:  {in_words(after)}")
        print(_conclusion(before, after))
    return 0


def _require_new(path: Path) -> None:
    """DiskError unless `path` is the name of a PNG that is not there yet."""
    if path.suffix.lower() != ".png":
        raise DiskError("not the name of a PNG", path, "name a file that ends with .png")
    if path.exists() or path.is_symlink():
        raise DiskError("exists already", path, "name another file, or remove this one yourself")


def _conclusion(before: Prediction, after: Prediction) -> str:
    if before.label != after.label:
        return f"the decision changes: {before.label} becomes {after.label}"
    return f"the decision stays: {before.label}"


def _as_object(
    options: argparse.Namespace, before: Prediction, after: Prediction
) -> dict[str, Any]:
    def said(prediction: Prediction) -> dict[str, Any]:
        return {
            "prediction": prediction.label,
            "confidence": prediction.classes[prediction.label],
            "classes": prediction.classes,
            "map": [[round(float(cell), 6) for cell in row] for row in prediction.map],
        }

    changed = before.label != after.label
    about = {"file": str(options.image), "attention": options.attention, "changed": changed}
    return about | {"before": said(before), "after": said(after)}
