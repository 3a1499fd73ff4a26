"""Get the data set that params.yaml names and pack it: -> data/train, data/val (.safetensors)."""

from abn.config.params import Params
from abn.datasets import pack
from abn.project import paths
from abn.project.inputs import Inputs
from abn.project.stage import run
from abn.runtime import progress


def main(params: Params, inputs: Inputs) -> None:
    source = pack.open_source(params.data, paths.DOWNLOADS)
    files = {"train": paths.TRAIN_DATA, "val": paths.VAL_DATA}
    pack.pack(source, params.data.size, files)
    inputs.check()
    for split, path in files.items():
        progress.say(f"{path}: {len(source.files[split])} images of {len(source.classes)} classes")


if __name__ == "__main__":
    run(main)
