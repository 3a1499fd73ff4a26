"""Make a checkpoint of this project from weights of another one.

  abn convert model_best.pth.tar weights/official.safetensors     the official ABN
  abn convert checkpoint/checkpoint-13300 weights/old.safetensors  the project before this one
  abn convert resnet50-0676ba61.pth starts/resnet50.safetensors   torchvision: for train.init only

A forward pass is compared with what the weights came from, in float64, before anything is written.
The project before this one had a ReLU after bn_att that the official code has not. It is part of
what its weights mean, so the header says `branch_relu` and the network keeps it.

Then: evaluate.checkpoint (and explain., visualize.) in params.yaml, or abn.load(FILE). A network of
1000 classes is scored on the classes of the data alone, found by their names.
"""

import argparse
import json
from pathlib import Path

from abn.inference import convert
from abn.models import checkpoint
from abn.runtime.errors import DataError

HELP = "make a checkpoint from weights of the official ABN, the old project or torchvision"
NEEDS_PROJECT = False


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", type=Path, help="a file of weights, or the Trainer's folder")
    parser.add_argument("target", type=Path, help="the checkpoint to write, NAME.safetensors")
    parser.add_argument("--classes", type=Path, help="a file of the names, one a line, in order")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Write the checkpoint and say what it is; the exit code."""
    made = convert.convert(options.source, _names(options.classes) if options.classes else ())
    convert.write(made, options.target)
    digest = checkpoint.sha256(options.target)
    about = {name: made.header[name] for name in ("arch", "converted")}
    about |= {"classes": len(made.header["classes"]), "difference": made.difference}
    about |= {"file": str(options.target), "sha256": digest}
    if options.json:
        print(json.dumps(about | {"start_only": "start_only" in made.header}))
        return 0
    print(f"{about['converted']}: {about['arch']}, {about['classes']} classes")
    print(f"largest difference of a forward pass: {made.difference:.1e} of the largest logit")
    print(f"written: {options.target}")
    if "start_only" in made.header:
        print(f"a start: train.init: {options.target} and train.init_sha256: {digest}")
    return 0


def _names(file: Path) -> tuple[str, ...]:
    """The lines of `file` that are not empty; DataError where it is no text."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        what = getattr(error, "strerror", None) or "not UTF-8"
        raise DataError(what, f"--classes {file}", "give a file of UTF-8 text") from None
    return tuple(line for line in lines if line.strip())
