"""Get the data set that params.yaml names and pack it: -> data/train, data/val (.safetensors)."""

from abn.params import Params
from stages import paths, run


def main(params: Params) -> None:
    from abn import data, progress, sources  # torch takes seconds: only once the params hold

    config = params.data
    source = sources.open_source(config, paths.DOWNLOADS)
    for path, part in ((paths.TRAIN_DATA, source.train), (paths.VAL_DATA, source.val)):
        with progress.bar(f"packing {path}", part.length, "image") as bar:
            samples = progress.counted(part.samples, bar)
            data.write(
                path, samples, part.length, config.size, source.classes, source.origin, source.masks
            )
        progress.say(f"{path}: {part.length} images of {len(source.classes)} classes")


if __name__ == "__main__":
    run(main)
