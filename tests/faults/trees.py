"""Bad trees of images: one error that tells what is missing, odd or unreadable, and no data set."""

import os
import random
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from abn.datasets import imagenette, pack
from tests.faults import NotHere, Outcome, kind
from tests.faults._folder import JPEG, PNG, refused, tree
from tests.tars import tgz


def rename(root: Path, old: str, new: str) -> None:
    (root / old).rename(root / new)


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def bind(root: Path) -> None:
    """A socket file; its path must be short, so from within its folder."""
    here = Path.cwd()
    os.chdir(root / "train" / "cat")
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind("3.png")
    finally:
        os.chdir(here)


def flat(root: Path) -> None:
    """Images where the classes should be."""
    for split in ("train", "val"):
        for i in range(3):
            rename(root, f"{split}/cat/{i}.png", f"{split}/{i}.png")
        for name in ("cat", "dog"):
            clear(root / split / name)
            (root / split / name).rmdir()


PIPE = "not a file or folder itself, but a pipe, a device or a link to no file; .*"
TREES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda r: rename(r, "", "../elsewhere"), "no such folder"),
    "a file where the folder should be": (
        lambda r: (rename(r, "", "../elsewhere"), r.write_bytes(PNG)),
        "no such folder",
    ),
    "a link to itself": (
        lambda r: (rename(r, "", "../elsewhere"), r.symlink_to(r)),
        "no such folder",
    ),
    "no val/": (lambda r: rename(r, "val", "../elsewhere"), "but there is no val/"),
    "val/ under another name": (lambda r: rename(r, "val", "valid"), "but there is no val/"),
    "train/ under another name": (lambda r: rename(r, "train", "Train"), "but there is no train/"),
    "a class missing in val/": (lambda r: rename(r, "val/cat", "../elsewhere"), "1 class folder"),
    "a class renamed in val/": (lambda r: rename(r, "val/cat", "val/kat"), "class 'cat' is not in"),
    "a class more in val/": (lambda r: (r / "val" / "bird").mkdir(), "class 'bird' is not in"),
    "an empty class": (lambda r: clear(r / "val" / "cat"), "no images; .*val/cat"),
    "one class alone": (
        lambda r: [rename(r, f"{s}/cat", f"../elsewhere-{s}") for s in ("train", "val")],
        "1 class folder",
    ),
    "no classes": (flat, r"0 class folder\(s\)"),
    "a file where a class should be": (
        lambda r: (rename(r, "val/cat", "../elsewhere"), (r / "val" / "cat").write_bytes(PNG)),
        "1 class folder",
    ),
    "a class that cannot be shown": (
        lambda r: [rename(r, f"{s}/cat", f"{s}/c\nt") for s in ("train", "val")],
        "has a name that cannot be shown",
    ),
    "a class not UTF-8": (
        lambda r: [rename(r, f"{s}/cat", f"{s}/c\udcfft") for s in ("train", "val")],
        "has a name that cannot be shown",
    ),
    "a broken image whose name is not UTF-8": (
        lambda r: (r / "train" / "cat" / "\udcff.png").write_bytes(b""),
        r"1 image cannot be used; .*\\udcff\.png \(not an image",
    ),
    "a link in circles": (lambda r: (r / "train" / "cat" / "up").symlink_to(".."), f"{PIPE}/up"),
    "a link to itself among images": (
        lambda r: (r / "train" / "cat" / "3.png").symlink_to("3.png"),
        f"{PIPE}/3.png",
    ),
    "a link to nothing": (
        lambda r: (r / "train" / "cat" / "3.png").symlink_to("/nowhere/3.png"),
        f"{PIPE}/3.png",
    ),
    "a link to a device": (
        lambda r: (r / "train" / "cat" / "3.png").symlink_to("/dev/zero"),
        f"{PIPE}/3.png",
    ),
    "a pipe": (lambda r: os.mkfifo(r / "train" / "cat" / "3.png"), f"{PIPE}/3.png"),
    "a socket": (bind, f"{PIPE}/3.png"),
    "a folder called like an image": (
        lambda r: (clear(r / "val" / "cat"), (r / "val" / "cat" / "3.png").mkdir()),
        "no images; .*val/cat",
    ),
}


def tree_refused(damage: Callable[[Path], object], words: str, folder: Path, draws: random.Random):
    root = tree(folder)
    damage(root)
    return refused(folder, root, words)


for name, (damage, words) in TREES.items():
    kind("trees", name)(partial(tree_refused, damage, words))


@contextmanager
def nobody() -> Iterator[Path]:
    """A tree in the working folder of a user to whom permissions apply; root may read it all."""
    if os.geteuid() != 0:
        raise NotHere("needs root, to be somebody else for a while")
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:  # the way to others is closed to nobody
        Path(folder).chmod(0o777)
        os.chdir(folder)
        try:
            yield tree(Path())
        finally:
            os.seteuid(0)
            os.chdir(here)


@kind("trees", "an image that may not be read")
def secret_image(folder: Path, draws: random.Random) -> Outcome:
    with nobody() as root:
        (root / "train" / "cat" / "1.png").chmod(0)
        os.seteuid(65534)
        return refused(Path(), root, r"train/cat/1\.png \(.*Permission denied")


@kind("trees", "a folder that may not be read")
def secret_folder(folder: Path, draws: random.Random) -> Outcome:
    with nobody() as root:
        (root / "train" / "cat" / "deep").mkdir(mode=0)
        os.seteuid(65534)
        return refused(Path(), root, "cannot be read: Permission denied; .*cat/deep;")


def imagenette_refused(
    change: Callable[[list[str]], list[str]], words: str, folder: Path, draws: random.Random
) -> Outcome:
    """An archive whose images are right, but not their folders."""
    names = [f"top/{s}/{wnid}/1.JPEG" for s in ("train", "val") for wnid in imagenette.CLASSES]
    path = folder / "set.tgz"
    path.write_bytes(tgz(*((name, JPEG) for name in change(names))))
    md5 = pack.fetch._md5(path)
    return refused(folder, folder, words, name="imagenette", url=str(path), md5=md5)


ARCHIVES: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "an archive without a class": (lambda n: n[:-1], "no image; val/n03888257 in the archive"),
    "an archive with a class more": (
        lambda n: [*n, "top/val/n99999999/1.JPEG"],
        "n99999999 is no class of Imagenette",
    ),
    "an archive with a class renamed": (
        lambda n: [name.replace("n01440764", "tench") for name in n],
        "tench is no class of Imagenette",
    ),
    "an archive without val/": (lambda n: n[:10], "no image; val/n01440764 in the archive"),
    "an archive of something else": (lambda n: ["top/readme.txt"], "no image; .* in the archive"),
}
for name, (change, words) in ARCHIVES.items():
    kind("trees", name)(partial(imagenette_refused, change, words))
