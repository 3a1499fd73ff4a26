"""Fetch a trained network from the Hugging Face Hub into a new folder.

    abn pull USER/REPO                  # -> ./REPO/model.safetensors, config.json, README.md
    abn pull hf://USER/REPO@v1 --to FOLDER

In Python, abn.load("hf://USER/REPO") does without the folder. Only those files are fetched and
none is run; a repository that holds no network of this project is refused.
"""

import argparse
import json
from pathlib import Path

from abn.inference import hub

HELP = "fetch a network from the Hugging Face Hub"
NEEDS_PROJECT = False


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("target", metavar="USER/REPO", help="with @REVISION where wanted")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="a new folder; REPO")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Fetch, and print where the files are; 0."""
    folder = options.to or Path(hub.address(options.target).repo.partition("/")[2])
    names = hub.pull(options.target, folder)
    print(json.dumps({"at": str(folder), "files": names}) if options.json else folder)
    return 0
