"""Put a trained network on the Hugging Face Hub, with a card that says what was measured of it.

    abn push USER/REPO                   # checkpoint/model.safetensors, in one commit
    abn push USER/REPO --to FOLDER       # write the files there, send nothing

Files: model.safetensors, config.json, README.md (the card: data, accuracy, the verdict on the map
with its numbers) and attentions.png. A number is on the card only if dvc.lock has it as made from
these weights. Log in once with `hf auth login`, or set HF_TOKEN.
"""

import argparse
import json
import shutil
from pathlib import Path

from abn.inference import card, hub, predictor
from abn.project import paths
from abn.runtime import files

HELP = "put a network on the Hugging Face Hub, with its card"
NEEDS_PROJECT = False


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    default = paths.CHECKPOINT / paths.MODEL
    parser.add_argument("target", metavar="USER/REPO", help="the repository; made if missing")
    parser.add_argument("--checkpoint", type=Path, default=default, help=f"{default}")
    parser.add_argument("--private", action="store_true", help="if it is made, for you alone")
    parser.add_argument("--message", default="Network, card and settings", help="of the commit")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write files, send nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Push, or write the files to a folder; print where they are; 0."""
    predictor.load(options.checkpoint, "cpu")  # a DataError before anything is sent
    content = card.content(options.checkpoint, options.target)
    if options.to:
        _write(options.to, content)
        where = str(options.to)
    else:
        where = hub.push(options.target, content, options.private, options.message)
    print(json.dumps({"at": where, "files": list(content)}) if options.json else where)
    return 0


def _write(folder: Path, content: dict[str, bytes | Path]) -> None:
    with files.writing(folder), files.replacing_folder(folder, hub.NOTHING) as part:
        for name, source in content.items():
            if isinstance(source, bytes):
                (part / name).write_bytes(source)
            else:
                shutil.copyfile(source, part / name)
