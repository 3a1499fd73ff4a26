"""What a data set the size of ImageNet's costs: each piece measured on a smaller one, alone.

    python -m benchmarks.scale --images 200000 --photos imagenette2-224.tgz

files   JPEG files of SIDE pixels, no two the same, from some hundred pictures
watch   DVC on that folder, as the download stage's dependency: at first, and again
pack    the project's packer on that folder: files, duplicates and all
hash    the packed file as DVC hashes it (MD5) and as training does at its start (SHA-256)
stream  training steps on the packed file under a memory limit smaller than it
draws   what is drawn on the CPU for one epoch of 1,281,167 images

Every piece runs in a process of its own, so that its peak of memory is its own, and is saved when
it is done. The limit is a control group's, which counts the pages of the mapped file too. Where no
group can be made (it needs root) it is RLIMIT_DATA, which counts what a process has asked for and
not what it has mapped to read: the record says which. `imagenet` in the record is arithmetic: the
pieces, times the number of images.
"""

import argparse
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from benchmarks import data, measure, photos

IMAGENET = {"train": 1_281_167, "val": 50_000}  # images of ILSVRC 2012
CLASSES = 1000
QUALITY = 85  # of the JPEG files
BLOCK = 16  # pixels: a JPEG keeps squares of this side black or white
BITS = 16  # of the number that is stamped on a copy
CHUNK = 200  # files that a thread writes at a time
ROUND = 50  # steps
Results = dict[str, Any]


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--photos", type=Path, help="an Imagenette archive; else shapes")
    parser.add_argument("--bases", type=int, default=300, help="pictures that are copied")
    parser.add_argument("--side", type=int, default=224, help="pixels, of files and canvases")
    parser.add_argument("--size", type=int, default=64, help="pixels, to train at")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()), help="folder on a disk with room"
    )
    parser.add_argument("--limit", type=float, default=2.0, help="GB of memory of stream")
    options = parser.parse_args()
    found: Results = {}
    # Not in .cache as other benchmarks: a folder of images there is one that DVC does not see.
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        options.folder = Path(folder)
        for name, work in PIECES.items():
            found[name] = piece(work, options)
            print(name, found[name], flush=True)
            measure.save(options.out, "scale", vars(options), found)
    found["imagenet"] = imagenet(found)
    print(found["imagenet"])
    measure.save(options.out, "scale", vars(options), found)


def files(options: argparse.Namespace) -> Results:
    """`options.images` JPEG files FOLDER/images/CLASS/*.jpg, as many of every class."""
    bases = pictures(options)
    root, classes = options.folder / "images", min(CLASSES, max(options.images // 10, 2))
    for label in range(classes):
        (root / f"{label:04d}").mkdir(parents=True)

    def write(start: int) -> int:
        size = 0
        for index in range(start, min(start + CHUNK, options.images)):
            picture = stamped(bases[index % len(bases)], index // len(bases))
            path = root / f"{index % classes:04d}" / f"{index:07d}.jpg"
            Image.fromarray(picture).save(path, quality=QUALITY)
            size += path.stat().st_size
        return size

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        size = sum(pool.map(write, range(0, options.images, CHUNK)))
    return {"images": options.images, "classes": classes, "gb": size / 1e9}


def pictures(options: argparse.Namespace) -> list[NDArray[np.uint8]]:
    """Some pictures of SIDE x SIDE pixels, photographs or rendered."""
    root = photos.folder(options.folder / "bases", options.bases, options.photos)
    side = (options.side, options.side)
    return [
        np.array(Image.open(path).convert("RGB").resize(side)) for path in sorted(root.glob("*/*"))
    ]


def stamped(picture: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """A copy of `picture` with the bits of `number` as black and white squares along its edge."""
    made = picture.copy()
    for bit in range(BITS):
        y, x = (BLOCK * place for place in divmod(bit, picture.shape[1] // BLOCK))
        made[y : y + BLOCK, x : x + BLOCK] = 255 * (number >> bit & 1)
    return made


def watch(options: argparse.Namespace) -> Results:
    """`dvc repro` of a stage that depends on the folder and does nothing; then `dvc status`."""
    stage = {"cmd": "true", "deps": ["images"]}
    text = yaml.safe_dump({"stages": {"watch": stage}})
    (options.folder / "dvc.yaml").write_text(text, encoding="utf-8")
    found = {}
    for words in (["init", "--no-scm", "--quiet"], ["repro"], ["status"]):
        started = time.perf_counter()
        command = [sys.executable, "-m", "dvc", *words]
        env = os.environ | {"DVC_NO_ANALYTICS": "1"}
        subprocess.run(command, cwd=options.folder, env=env, check=True, stdout=subprocess.DEVNULL)
        found[f"seconds_of_{words[0]}"] = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    shutil.rmtree(options.folder / ".dvc")
    return found | {"peak_rss_gb_of_dvc": peak}


def pack(options: argparse.Namespace) -> Results:
    """Both splits packed from the folder; finding the files is a part of it."""
    from abn.datasets import pack as packing

    own = {"root": str(options.folder / "images"), "size": options.side, "val_fraction": 0.02}
    config = measure.recipe("folder").data.model_copy(update=own)
    started = time.perf_counter()
    source = packing.open_source(config, options.folder / "cache")
    finding = time.perf_counter() - started
    paths = {split: options.folder / split for split in source.files}
    packing.pack(source, options.side, paths)
    sizes = {split: path.stat().st_size / 1e9 for split, path in paths.items()}
    return {"images": options.images, "gb": sum(sizes.values()), "seconds_to_find": finding}


def digests(options: argparse.Namespace) -> Results:
    """Both checksums of the packed training split, each from the disk."""
    from dvc_data.hashfile.hash import file_md5

    from abn.models import checkpoint

    path = options.folder / "train"
    found: Results = {"gb": path.stat().st_size / 1e9}
    for name, digest in (
        ("md5", lambda: file_md5(os.fspath(path))),
        ("sha256", lambda: checkpoint.sha256(path)),
    ):
        forget(path)
        started = time.perf_counter()
        digest()
        found[f"seconds_of_{name}"] = time.perf_counter() - started
    return found


def stream(options: argparse.Namespace) -> Results:
    """Steps of a ResNet-18 on random images of a file that is not in the page cache."""
    path = options.folder / "train"
    forget(path)
    kind = limited(options.limit)
    play = data.training(path, options)
    turns = list(rounds(play, options.steps, min(ROUND, options.images // options.batch // 2)))
    images = sum(turn.images for turn in turns)
    return {
        "limit": kind,
        "limit_gb": options.limit,
        "file_gb": path.stat().st_size / 1e9,
        "images_per_second": images / sum(turn.seconds for turn in turns),
        "waiting_for_data": sum(turn.waiting for turn in turns) / sum(t.seconds for t in turns),
        "rounds": [turn.images / turn.seconds for turn in turns],
    }


def rounds(play: measure.Play, steps: int, each: int) -> Iterator[measure.Turn]:
    """`steps` in rounds of `each`, or fewer in the last; one to warm up is not counted."""
    play(1)
    while steps > 0:
        yield play(min(each, steps))
        steps -= each


def draws(options: argparse.Namespace) -> Results:
    """The order, crops, flips and colours of an epoch of ImageNet, by one thread."""
    import torch

    from abn.training import augment

    torch.set_num_threads(1)
    config, aspect = measure.recipe("imagenette-fast").train, torch.ones(IMAGENET["train"])
    started = time.perf_counter()
    augment._draws(aspect, config, 0, 0)
    return {"images": len(aspect), "seconds_of_draws": time.perf_counter() - started}


def limited(gigabytes: float) -> str:
    """Limit this process to so much memory; by what."""
    try:
        data.limit_memory(gigabytes)
    except OSError:
        size = int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
        return "RLIMIT_DATA: what the process asks for, without the mapped file"
    return "control group: with the pages of the mapped file"


def forget(path: Path) -> None:
    """Write `path` to the disk and drop it from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def piece(work: Callable[[argparse.Namespace], Results], options: argparse.Namespace) -> Results:
    """What `work` finds in a process of its own, and what that took."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(taken, work, options).result()


def taken(work: Callable[[argparse.Namespace], Results], options: argparse.Namespace) -> Results:
    """What `work` finds, with seconds and this process's peak of memory, its mapped pages too."""
    started, spent = time.perf_counter(), time.process_time()
    found = work(options)
    took = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - spent}
    status = Path("/proc/self/status").read_text("utf-8")
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return found | took | {"peak_rss_gb": int(peak) * 1024 / 1e9}


def imagenet(found: Results) -> Results:
    """The pieces at ImageNet's size, were each to take as long for every image as it did here."""
    images = sum(IMAGENET.values())
    size = images * found["pack"]["gb"] / found["pack"]["images"]
    times, hashed = images / found["pack"]["images"], size / found["hash"]["gb"]
    return {
        "images": images,
        "packed_gb": size,
        "hours_to_pack": times * found["pack"]["seconds"] / 3600,
        "minutes_of_dvc_at_first": times * found["watch"]["seconds_of_repro"] / 60,
        "minutes_of_dvc_again": times * found["watch"]["seconds_of_status"] / 60,
        "minutes_to_hash": hashed * found["hash"]["seconds_of_md5"] / 60,
        "minutes_to_start": hashed * found["hash"]["seconds_of_sha256"] / 60,
        "seconds_to_draw_an_epoch": found["draws"]["seconds_of_draws"],
    }


PIECES: dict[str, Callable[[argparse.Namespace], Results]] = {
    "files": files,
    "watch": watch,
    "pack": pack,
    "hash": digests,
    "stream": stream,
    "draws": draws,
}


if __name__ == "__main__":
    main()
