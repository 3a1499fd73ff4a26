"""A small folder of images, and packing it when something in it is wrong."""

import io
import random
import re
import time
from pathlib import Path

from PIL import Image

from abn.datasets import pack
from abn.runtime.errors import DataError
from tests.faults import Outcome, _stage

LONGEST = 5.0  # seconds


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


NOISE = Image.frombytes("RGB", (32, 32), random.Random(0).randbytes(32 * 32 * 3))
JPEG, PNG, TIFF = (saved(NOISE, kind) for kind in ("JPEG", "PNG", "TIFF"))


def tree(folder: Path) -> Path:
    """Two classes of three images each, in both splits."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / "images" / split / name).mkdir(parents=True)
            for i in range(3):
                (folder / "images" / split / name / f"{i}.png").write_bytes(PNG)
    return folder / "images"


def pack_into(folder: Path, root: Path, **changes: object) -> None:
    """Pack the data set of `root`, or the one that `changes` name, to `folder`/data."""
    data = _stage.config(**({"name": "folder", "root": str(root)} | changes))
    source = pack.open_source(data, folder / "cache")
    pack.pack(source, data.size, {s: folder / "data" / f"{s}.safetensors" for s in source.counts})


def refused(folder: Path, root: Path, words: str, **changes: object) -> Outcome:
    """Packing ends in one line that says `words`, soon, and leaves no file."""
    start = time.monotonic()
    try:
        pack_into(folder, root, **changes)
        raise AssertionError("no error")
    except DataError as error:
        line = error.line().encode("utf-8", "backslashreplace").decode()
        assert re.search(words, line) and line.isprintable(), line
    seconds = time.monotonic() - start
    assert seconds < LONGEST
    assert not (folder / "data").exists() or not list((folder / "data").iterdir())
    return Outcome("error[DATA]", seconds=seconds)
