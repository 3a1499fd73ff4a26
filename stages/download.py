"""Get the data set that params.yaml names and pack it: -> data/train, data/val (.safetensors)."""

from abn.core.params import Params
from stages import paths, run
from stages.inputs import Inputs


def main(params: Params, inputs: Inputs) -> None:
    from abn.core import progress
    from abn.datasets import sources  # torch takes seconds: only once the params hold

    source = sources.open_source(params.data, paths.DOWNLOADS)
    files = {"train": paths.TRAIN_DATA, "val": paths.VAL_DATA}
    sources.pack(source, params.data.size, files)
    inputs.check()
    for split, path in files.items():
        progress.say(f"{path}: {source.counts[split]} images of {len(source.classes)} classes")


if __name__ == "__main__":
    run(main)
