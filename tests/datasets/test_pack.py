"""Each source to packed files, also when the disk, an image or a signal interferes."""

import errno
import hashlib
import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from abn.config import params as parameters
from abn.config.params import Data, Params
from abn.data import packed
from abn.data.packed import Split
from abn.datasets import imagenette, images, pack, shapes
from abn.runtime import files
from abn.runtime.errors import DataError, DiskError, UserError
from tests.tars import tgz

ROOT = Path(__file__).parents[2]
Make = Callable[..., Data]


@pytest.fixture
def config(params: Params, changed: Make) -> Data:
    few = changed(params.data.shapes, train=12, val=10)
    return changed(params.data, size=32, shapes=few)


def pack_both(config: Data, folder: Path) -> tuple[Split, Split]:
    """Both splits as they are read back."""
    source = pack.open_source(config, folder / "cache")
    pack.pack(source, config.size, {s: folder / f"{s}.safetensors" for s in source.files})
    return packed.read(folder / "train.safetensors"), packed.read(folder / "val.safetensors")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def picture(shade: int, width: int = 40, height: int = 40, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (shade, shade, shade)).save(file, kind, quality=95)
    return file.getvalue()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def own(tmp_path: Path, config: Data, changed: Make) -> Data:
    """Thirty shades of two classes, some much slower to decode than others; no two the same."""
    for i in range(30):
        side = 1000 if i % 5 == 0 else 20
        split = "train" if i < 20 else "val"
        put(tmp_path / f"images/{split}/{'ab'[i % 2]}/{i:02}.png", picture(8 * i, side, side))
    return changed(config, name="folder", root=str(tmp_path / "images"))


@pytest.fixture
def archive(tmp_path: Path, config: Data, changed: Make) -> Callable[[bytes | None], Data]:
    """`archive(content)`: two training images a class and one for validation, unsorted.

    They are 40 x 20 with shades by label, or all are `content`.
    """

    def make(content: bytes | None = None) -> Data:
        members = [
            (
                f"imagenette2-160/{name}.JPEG",
                picture(20 * i, 40, 20, "JPEG") if content is None else content,
            )
            for i, wnid in reversed(list(enumerate(imagenette.CLASSES)))
            for name in (f"val/{wnid}/v", f"train/{wnid}/b", f"train/{wnid}/a")
        ]
        path, data = tmp_path / "small.tgz", tgz(*members)
        path.write_bytes(data)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return changed(config, name="imagenette", url=str(path), md5=md5)

    return make


def test_shapes_are_rendered_with_their_masks(config: Data, tmp_path: Path) -> None:
    train, val = pack_both(config, tmp_path)
    assert (len(train), len(val)) == (12, 10)
    assert train.classes == shapes.CLASSES and train.source == "shapes, seed 0"
    assert train.labels.tolist() == [*range(10), 0, 1]
    assert (train.aspect == 1).all()
    assert train.files[10:] == ("train/00010", "train/00011") and val.files[0] == "val/00000"
    assert train.masks is not None and (train.masks == 1).flatten(1).any(1).all()
    assert not train.images[:10].equal(val.images)


def test_the_seed_of_the_data_renders_other_shapes(
    config: Data, changed: Make, tmp_path: Path
) -> None:
    first, again, other = (
        pack_both(changed(config, seed=seed), tmp_path / name)[0]
        for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    )
    assert first.digest == again.digest != other.digest


@pytest.mark.parametrize(("ahead", "chunk"), [(pack.AHEAD, pack.CHUNK), (0, 2)])
def test_a_folder_is_packed_in_order_although_decoded_in_threads(
    own: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, chunk: int
) -> None:
    monkeypatch.setattr(pack, "AHEAD", ahead)
    monkeypatch.setattr(pack, "CHUNK", chunk)
    train, val = pack_both(own, tmp_path)
    shades = [8 * i for i in (*range(0, 20, 2), *range(1, 20, 2))]  # class a, then class b
    assert train.images[:, 0, 0, 0].tolist() == shades
    assert train.labels.tolist() == [0] * 10 + [1] * 10
    assert val.labels.tolist() == [0] * 5 + [1] * 5
    numbers = [*range(0, 20, 2), *range(1, 20, 2)]
    assert train.files == tuple(f"train/{'ab'[i % 2]}/{i:02}.png" for i in numbers)
    assert train.classes == ("a", "b") and train.masks is None
    assert str(tmp_path).encode() not in (tmp_path / "train.safetensors").read_bytes()


def test_the_original_aspect_is_kept(own: Data, tmp_path: Path) -> None:
    put(tmp_path / "images/train/a/00.png", picture(7, 60, 20))
    put(tmp_path / "images/train/b/99.png", picture(7, 20, 40))
    train, _ = pack_both(own, tmp_path)
    assert (train.aspect[0], train.aspect[-1]) == (3, 0.5)


def test_imagenette_is_packed_from_a_local_archive(
    archive: Callable[..., Data], tmp_path: Path
) -> None:
    config = archive()
    train, val = pack_both(config, tmp_path)
    assert train.classes == tuple(imagenette.CLASSES.values())
    assert train.source == f"imagenette, archive md5 {config.md5}"
    assert sorted(train.labels.tolist()) == sorted([*range(10)] * 2)
    assert sorted(val.labels.tolist()) == [*range(10)]
    for split in (train, val):
        shades = split.images[:, 16, 16, 0].int() - 20 * split.labels
        assert shades.abs().max() <= 2
        assert (split.aspect == 2).all() and split.masks is None
        found = [
            (name.split("/")[1:3], label)
            for name, label in zip(split.files, split.labels, strict=True)
        ]
        part = "train" if split is train else "val"
        assert found == [([part, list(imagenette.CLASSES)[label]], label) for _, label in found]
    wnid = list(imagenette.CLASSES)[-1]  # the archive's first
    assert train.files[:2] == tuple(f"imagenette2-160/train/{wnid}/{i}.JPEG" for i in "ba")


def test_without_a_url_the_variants_own_archive_is_fetched(
    config: Data, changed: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def fetch(*call: Any) -> Path:
        asked.append(call)
        raise UserError("no network", "here", "plug it in")

    monkeypatch.setattr(pack.download, "fetch", fetch)
    with pytest.raises(UserError, match="no network"):
        pack.open_source(changed(config, name="imagenette", variant="320px"), tmp_path)
    url, md5 = imagenette.ARCHIVES["320px"]
    assert asked == [(url, tmp_path / md5 / "imagenette.tgz", md5)]


def test_every_bad_file_is_named_by_reason_in_one_run_and_nothing_is_written(
    own: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "images/train/b/05.png", b"not an image")
    put(tmp_path / "images/val/a/\x1b.png", b"neither")
    put(tmp_path / "images/val/a/x.png", b"neither")
    put(tmp_path / "images/train/a/02.png", picture(7, 4, 4))
    for split in ("train", "val"):
        (tmp_path / f"images/{split}/c").mkdir()
    with pytest.raises(DataError) as caught:
        pack_both(own, tmp_path / "out")
    first = r"val/a/\x1b.png (its name has a control character: rename it)"
    where = f"{tmp_path}/images: {first} and 5 more, listed above"
    expected = f"6 files or folders cannot be used; {where}; replace or remove them"
    assert str(caught.value) == expected
    reason = f"not an image of the kinds {', '.join(images.FORMATS)}"
    assert said(capsys) == [
        *("its name has a control character: rename it (1):", r"  val/a/\x1b.png"),
        *("no images (2):", "  train/c", "  val/c"),
        *("4 x 4 pixels, a side under 8 (1):", "  train/a/02.png"),
        *(f"{reason} (2):", "  train/b/05.png", "  val/a/x.png"),
    ]
    assert not list(tmp_path.glob("out/*.safetensors*"))


def test_a_long_list_of_bad_files_goes_to_a_file(
    own: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(60):
        put(tmp_path / f"images/val/a/x{i:02}.png", b"")
    with pytest.raises(DataError, match=r"^60 files .* and 59 more, listed in .*bad-images\.txt"):
        pack_both(own, tmp_path / "out")
    lines = (tmp_path / "out/cache/bad-images.txt").read_text("utf-8").splitlines()
    assert lines[1:] == [f"  val/a/x{i:02}.png" for i in range(60)]
    assert said(capsys)[:50] == lines[:50]


def test_bad_images_of_an_archive_are_named(
    archive: Callable[..., Data], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wnid = list(imagenette.CLASSES)[-1]  # the archive's first
    with pytest.raises(DataError, match=rf"^30 .*small\.tgz: .*/val/{wnid}/v\.JPEG \(.* 29 more"):
        pack_both(archive(b""), tmp_path / "out")
    assert capsys.readouterr().err.count("\n  imagenette2-160/") == 30
    assert not list(tmp_path.glob("out/*.safetensors*"))


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on stderr, without the bar's."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line and not line.startswith("packing:")]


def copied(tmp_path: Path, *pairs: tuple[str, str]) -> None:
    """Copies of the files of `own`."""
    for source, target in pairs:
        put(tmp_path / f"images/{target}", (tmp_path / f"images/{source}").read_bytes())


def test_an_image_in_both_splits_is_an_error_unless_allowed(
    own: Data, changed: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(tmp_path, ("train/a/02.png", "val/a/x.png"), ("train/b/03.png", "val/b/y.png"))
    put(tmp_path / "images/val/b/y.png", picture(24, 20, 20, "BMP"))  # the same pixels
    with pytest.raises(DataError) as caught:
        pack_both(own, tmp_path / "out")
    first = "train/a/02.png (train) = val/a/x.png (val)"
    remedy = "remove all but one of each, or allow it with data.allow_duplicates: true"
    where = f"{tmp_path}/images: {first}, listed above"
    assert str(caught.value) == f"2 image(s) in both splits; {where}; {remedy}"
    assert said(capsys) == [
        first,
        "train/b/03.png (train) = val/b/y.png (val)",
    ]
    assert not list(tmp_path.glob("out/*.safetensors*"))
    train, val = pack_both(changed(own, allow_duplicates=True), tmp_path / "out")
    assert (len(train), len(val)) == (20, 12)
    assert "2 image(s) in both splits, which data.allow" in capsys.readouterr().err


def test_an_image_in_two_classes_is_named_and_copies_in_one_are_counted(
    own: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(tmp_path, ("train/a/02.png", "train/b/x.png"), ("train/b/03.png", "train/b/y.png"))
    train, _ = pack_both(own, tmp_path / "out")
    assert len(train) == 22
    assert said(capsys)[:3] == [
        "warning: 1 image(s) in more than one class:",
        "train/a/02.png (train) = train/b/x.png (train)",
        "1 image(s) are copies of another of the same class and split",
    ]


def test_two_pictures_of_another_form_are_no_copies(own: Data, tmp_path: Path) -> None:
    put(tmp_path / "images/val/a/x.png", picture(16, 20, 40))
    assert len(pack_both(own, tmp_path / "out")[1]) == 11


def test_an_archive_that_has_an_image_in_both_splits_is_packed_with_a_warning(
    archive: Callable[..., Data], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its three images of a class are the same, and so an image in both splits."""
    train, val = pack_both(archive(), tmp_path)
    assert (len(train), len(val)) == (20, 10)
    lines = said(capsys)
    assert lines[0] == "warning: 10 image(s) in both splits, as this archive has them"
    name = next(iter(imagenette.CLASSES.values()))
    assert lines[-10].split() == [name, "2", "1", "0", "20", "to", "40"]


def mask(place: slice, width: int = 20, height: int = 20) -> bytes:
    """A PNG that is 255 in the columns `place`, else 0."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, place] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_masks_are_packed_as_their_images_are_and_it_is_known_which_have_one(
    own: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "images/train/b/wide.png", picture(251, 40, 20))
    put(tmp_path / "images/masks/train/b/wide.png", mask(slice(0, 10), 40))  # the left quarter
    put(tmp_path / "images/masks/train/a/02.png", mask(slice(10, 20)))  # the right half
    train, val = pack_both(own, tmp_path / "out")
    assert train.masks is not None and val.masks is None
    assert train.has_mask.nonzero().flatten().tolist() == [1, 20]
    expected = torch.zeros(21, 32, 32, dtype=torch.uint8)
    expected[1, :, 16:] = expected[20, :, :8] = 1
    assert train.masks.equal(expected)
    assert train.files[1] == "train/a/02.png" and train.files[20] == "train/b/wide.png"
    lines = said(capsys)
    assert [line.split() for line in lines[-3:]] == [
        ["class", "train", "val", "masks", "sides", "(pixels)"],
        ["a", "10", "5", "1", "20", "to", "1000"],
        ["b", "11", "5", "1", "20", "to", "1000"],
    ]
    assert (tmp_path / "out/cache/found.csv").read_text("utf-8").splitlines() == [
        "class,train,val,train_masks,val_masks,smallest_side,largest_side",
        "a,10,5,1,0,20,1000",
        "b,11,5,1,0,20,1000",
    ]


def test_bad_masks_are_named_with_bad_images_in_one_run(
    own: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "images/train/b/05.png", b"not an image")
    put(tmp_path / "images/masks/train/a/02.png", mask(slice(0, 0)))
    put(tmp_path / "images/masks/train/a/04.png", mask(slice(5, 9), 19))
    put(tmp_path / "images/masks/val/a/nobody.png", mask(slice(5, 9)))
    with pytest.raises(DataError, match=r"^4 files or folders cannot be used"):
        pack_both(own, tmp_path / "out")
    reason = f"not an image of the kinds {', '.join(images.FORMATS)}"
    lost = "a mask without an image: it has to be called as its image is, below masks/"
    assert said(capsys) == [
        *(f"{lost} (1):", "  masks/val/a/nobody.png"),
        *("all pixels are 0: no object (1):", "  masks/train/a/02.png"),
        *("19 x 20 pixels, its image 20 x 20 (1):", "  masks/train/a/04.png"),
        *(f"{reason} (1):", "  train/b/05.png"),
    ]
    assert not list(tmp_path.glob("out/*.safetensors*"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep such names")
def test_names_are_utf8_whatever_the_locale(own: Data, tmp_path: Path) -> None:
    (tmp_path / "images/train/a").rename(tmp_path / "images/train/K\u00e4fer")
    (tmp_path / "images/val/a").rename(tmp_path / "images/val/K\u00e4fer")
    code = (
        "import sys; from pathlib import Path; from abn.config import params as p;"
        "from tests.datasets.test_pack import pack_both;"
        "d = p.load(Path(sys.argv[1])).data; root = sys.argv[2];"
        "d = d.model_copy(update=dict(name='folder', size=32, root=root + '/images'));"
        "train, _ = pack_both(d, Path(root, 'out'));"
        "print(ascii((train.classes, train.files[0])))"
    )
    env = os.environ | {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(ROOT / "params.yaml"), str(tmp_path)]
    printed = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    expected = (("K\u00e4fer", "b"), "train/K\u00e4fer/00.png")
    assert printed.stdout.strip() == ascii(expected), printed.stderr


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes, as on a full disk."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_a_full_disk_is_one_line_and_leaves_nothing(config: Data, tmp_path: Path) -> None:
    with file_size_limit(10_000), pytest.raises(DiskError, match=r"^cannot be written: File too"):
        pack_both(config, tmp_path)
    assert names(tmp_path) == []
    pack_both(config, tmp_path)


def test_room_is_checked_before_the_first_image(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DiskError, match="bytes are needed, 1,000 are free"):
        pack_both(config, tmp_path)
    assert names(tmp_path) == []


def test_a_failing_disk_keeps_the_former_file(
    config: Data, changed: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_both(config, tmp_path)
    before = (tmp_path / "train.safetensors").read_bytes()

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "sync", fail)
    with pytest.raises(DiskError, match=r"^cannot be written: Input/output error"):
        pack_both(changed(config, seed=1), tmp_path)
    assert names(tmp_path) == ["train.safetensors", "val.safetensors"]
    assert (tmp_path / "train.safetensors").read_bytes() == before


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder in which the download stage renders 1,200 shapes."""
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("train: 4500", "train: 1200"))
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    return tmp_path


def start(project: Path) -> "subprocess.Popen[str]":
    """The download stage as a process of its own, which no ignored signal is inherited by."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("ABN_")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["env", "--default-signal=INT", sys.executable, "-m", "stages.download"]
    return subprocess.Popen(command, cwd=project, env=env, stderr=subprocess.PIPE, text=True)


def packing(project: Path) -> "subprocess.Popen[str]":
    """The stage, while it packs."""
    process = start(project)
    while not files.partial(project / "data/train.safetensors").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    return process


def finish(process: "subprocess.Popen[str]") -> int:
    """Its exit code; no traceback."""
    _, log = process.communicate(timeout=120)
    assert "Traceback" not in log, log
    return process.returncode


def is_packed(project: Path, expected: Path) -> bool:
    """Both files have the bytes of those that this process packs in `expected`."""
    config = parameters.load(project / "params.yaml").data
    pack_both(config, expected)
    names = ["train.safetensors", "val.safetensors"]
    same = all((project / "data" / n).read_bytes() == (expected / n).read_bytes() for n in names)
    return same and sorted(path.name for path in project.glob("data/*")) == names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_stopped_stage_leaves_no_data_set_and_the_next_run_packs_the_same_bytes(
    project: Path, tmp_path_factory: pytest.TempPathFactory, number: int, code: int
) -> None:
    process = packing(project)
    process.send_signal(number)
    assert finish(process) == code
    assert not list(project.glob("data/*.safetensors"))
    assert number == signal.SIGKILL or not list(project.glob("data/*"))
    assert finish(start(project)) == 0
    assert is_packed(project, tmp_path_factory.mktemp("expected"))
    assert not list(project.glob(".cache/locks/*"))


@pytest.mark.slow
def test_a_second_stage_waits_for_the_first(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, second = packing(project), start(project)
    assert (finish(first), finish(second)) == (0, 0)
    assert is_packed(project, tmp_path_factory.mktemp("expected"))
