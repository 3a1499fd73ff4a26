"""Each source from what it is given to packed files."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from abn.config.params import Data, Params
from abn.data import packed
from abn.data.packed import Split
from abn.datasets import imagenette, pack, shapes
from abn.runtime.errors import UserError

Make = Callable[..., Data]


@pytest.fixture
def config(params: Params, changed: Make) -> Data:
    few = changed(params.data.shapes, train=12, val=10)
    return changed(params.data, size=32, shapes=few)


def pack_both(config: Data, folder: Path) -> tuple[Split, Split]:
    """Both splits as they are read back."""
    source = pack.open_source(config, folder / "cache")
    pack.pack(source, config.size, {s: folder / f"{s}.safetensors" for s in source.counts})
    return packed.read(folder / "train.safetensors"), packed.read(folder / "val.safetensors")


def picture(shade: int, width: int = 40, height: int = 40, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (shade, shade, shade)).save(file, kind, quality=95)
    return file.getvalue()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def own(tmp_path: Path, config: Data, changed: Make) -> Data:
    """Thirty shades of two classes, some much slower to decode than others."""
    for i in range(30):
        side = 1000 if i % 5 == 0 else 20
        split = "train" if i < 20 else "val"
        put(tmp_path / f"images/{split}/{'ab'[i % 2]}/{i:02}.png", picture(8 * i, side, side))
    return changed(config, name="folder", root=str(tmp_path / "images"))


@pytest.fixture
def archive(tmp_path: Path, config: Data, changed: Make) -> Data:
    """Two training images a class and one for validation, 40 x 20, shades by label; unsorted."""
    path = tmp_path / "small.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for label, wnid in reversed(list(enumerate(imagenette.CLASSES))):
            for name in (f"val/{wnid}/v", f"train/{wnid}/b", f"train/{wnid}/a"):
                content = picture(20 * label, 40, 20, "JPEG")
                info = tarfile.TarInfo(f"imagenette2-160/{name}.JPEG")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return changed(config, name="imagenette", url=str(path), md5=md5)


def test_shapes_are_rendered_with_their_masks(config: Data, tmp_path: Path) -> None:
    train, val = pack_both(config, tmp_path)
    assert (len(train), len(val)) == (12, 10)
    assert train.classes == shapes.CLASSES and train.source == "shapes, seed 0"
    assert train.labels.tolist() == [*range(10), 0, 1]
    assert (train.aspect == 1).all()
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


def test_a_folder_is_packed_in_order_although_decoded_in_threads(own: Data, tmp_path: Path) -> None:
    train, val = pack_both(own, tmp_path)
    shades = [8 * i for i in (*range(0, 20, 2), *range(1, 20, 2))]  # class a, then class b
    assert train.images[:, 0, 0, 0].tolist() == shades
    assert train.labels.tolist() == [0] * 10 + [1] * 10
    assert val.labels.tolist() == [0] * 5 + [1] * 5
    assert train.classes == ("a", "b") and train.masks is None


def test_a_folders_own_place_is_not_in_the_file(own: Data, tmp_path: Path) -> None:
    pack_both(own, tmp_path)
    assert str(tmp_path).encode() not in (tmp_path / "train.safetensors").read_bytes()


def test_the_original_aspect_is_kept(own: Data, tmp_path: Path) -> None:
    put(tmp_path / "images/train/a/00.png", picture(7, 60, 20))
    put(tmp_path / "images/train/b/99.png", picture(7, 20, 40))
    train, _ = pack_both(own, tmp_path)
    assert (train.aspect[0], train.aspect[-1]) == (3, 0.5)


def test_more_images_than_are_decoded_ahead_stay_in_order(
    config: Data, changed: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "AHEAD", 4)
    for i in range(26):
        put(tmp_path / f"images/{'ab'[i % 2]}/{i:02}.png", picture(8 * i))
    train, val = pack_both(
        changed(config, name="folder", root=str(tmp_path / "images")), tmp_path / "packed"
    )
    shades = torch.cat([train.images, val.images])[:, 0, 0, 0].tolist()
    assert sorted(shades) == [8 * i for i in range(26)]
    for label in range(2):
        mine = train.images[train.labels == label, 0, 0, 0].tolist()
        assert mine == sorted(mine) and all(shade // 8 % 2 == label for shade in mine)


def test_an_unreadable_image_is_named(own: Data, tmp_path: Path) -> None:
    put(tmp_path / "images/train/b/05.png", b"no image")
    with pytest.raises(UserError, match=r"^1 image cannot be used; .*train/b/05\.png \(not an im"):
        pack_both(own, tmp_path)
    assert not (tmp_path / "train.safetensors").exists()


def test_imagenette_is_unpacked_from_a_local_archive(archive: Data, tmp_path: Path) -> None:
    train, val = pack_both(archive, tmp_path)
    assert train.classes == tuple(imagenette.CLASSES.values())
    assert train.source == f"imagenette, archive md5 {archive.md5}"
    assert sorted(train.labels.tolist()) == sorted([*range(10)] * 2)
    assert sorted(val.labels.tolist()) == [*range(10)]
    for split in (train, val):
        shades = split.images[:, 16, 16, 0].int() - 20 * split.labels
        assert shades.abs().max() <= 2
        assert (split.aspect == 2).all()
        assert split.masks is None


def test_another_checksum_is_refused(archive: Data, changed: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected md5 0{32}, found .*small\.tgz"):
        pack_both(changed(archive, md5="0" * 32), tmp_path)


def test_a_broken_image_in_the_archive_is_named(
    archive: Data, changed: Make, tmp_path: Path
) -> None:
    path, names = tmp_path / "small.tgz", list(imagenette.CLASSES)
    with tarfile.open(path, "w:gz") as tar:
        for name in (f"top/{split}/{wnid}/x.JPEG" for split in ("train", "val") for wnid in names):
            tar.addfile(tarfile.TarInfo(name))
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    with pytest.raises(UserError, match=rf"^20 images .*; top/train/{names[0]}/x\.JPEG \(.* 15 mo"):
        pack_both(changed(archive, md5=md5), tmp_path)


def test_without_an_address_the_variants_own_archive_is_fetched(
    config: Data, changed: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def fetch(*call: Any) -> Path:
        asked.append(call)
        raise UserError("no network", "here", "plug it in")

    monkeypatch.setattr(pack.fetch, "fetch", fetch)
    with pytest.raises(UserError, match="no network"):
        pack.open_source(changed(config, name="imagenette", variant="320px"), tmp_path)
    url, md5 = imagenette.VARIANTS["320px"]
    assert asked == [(url, tmp_path / md5 / "imagenette.tgz", md5, 341_663_724)]
