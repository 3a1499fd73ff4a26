"""Write a trained network as one file that runs without this project: ONNX or torch.export.

    abn export                                    # checkpoint/model.safetensors -> ./model.onnx
    abn export MODEL --format torch-export --to net.pt2 --images a.jpg b.jpg

The file takes RGB images [batch, 3, height, width] in [0, 1], any number and size, and gives
logits, attention_logits and attention (the map). Normalisation and the second look are inside; the
checkpoint's header is in its metadata under "abn": classes, size to show images at, parameters.
It is compared with the network on real images before it appears: the validation images beside the
checkpoint's folder, or those named with --images.
"""

import argparse
import json
from pathlib import Path

from abn.inference import export, predictor
from abn.project import paths
from abn.runtime.errors import DataError

HELP = "write a network as ONNX or torch.export, checked on real images"
NEEDS_PROJECT = False


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    default = paths.CHECKPOINT / paths.MODEL
    parser.add_argument("checkpoint", nargs="?", type=Path, default=default, help=f"{default}")
    parser.add_argument("--format", choices=export.SUFFIXES, default="onnx", help="onnx")
    parser.add_argument("--to", type=Path, metavar="FILE", help="model.onnx or model.pt2")
    parser.add_argument("--images", type=Path, nargs="+", metavar="IMAGE", help="to compare on")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Export, and print what was written and how near it is to the network; 0."""
    target = options.to or Path(f"model{export.SUFFIXES[options.format]}")
    export.require_free(target)
    canvases, what = _images(options)
    check = export.export(options.checkpoint, target, options.format, canvases)
    about = {"file": str(target), "bytes": target.stat().st_size, "images_from": what}
    about |= check._asdict()
    print(json.dumps(about) if options.json else _text(about))
    return 0


def _images(options: argparse.Namespace) -> tuple[list[export.Canvas], str]:
    """The images to compare on, and where they are from."""
    model = predictor.load(options.checkpoint, "cpu")
    if options.images:
        return export.photo_canvases(options.images, model.canvas), "--images"
    data = options.checkpoint.parent.parent / paths.VAL_DATA
    if not data.exists():
        what = "no images to compare the exported network on"
        raise DataError(what, data, "name some with --images, or run `dvc repro download`")
    return export.packed_canvases(data), str(data)


def _text(about: dict[str, object]) -> str:
    differences = about["differences"]
    assert isinstance(differences, dict)
    listed = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    return (
        f"{about['file']}: {about['bytes']:,} bytes\n"
        f"compared with the network on {about['images']} images ({about['images_from']}), sides "
        f"{about['sizes']} px, batches {export.BATCHES}; largest difference: {listed}"
    )
