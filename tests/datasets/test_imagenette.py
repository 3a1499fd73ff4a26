"""Imagenette's facts are torchvision's; its images are found by their names in an archive."""

import pytest
from torchvision.datasets import Imagenette

from abn.datasets import imagenette
from abn.runtime.errors import DataError

WNIDS = list(imagenette.CLASSES)
NAMES = [f"top/{split}/{wnid}/a.JPEG" for split in ("val", "train") for wnid in WNIDS]


def test_torchvision_still_has_its_private_tables_as_we_read_them() -> None:
    for table in ("_ARCHIVES", "_WNID_TO_CLASS"):
        assert hasattr(Imagenette, table), (
            f"torchvision moved Imagenette.{table}: read it from its new place in "
            "abn/datasets/imagenette.py, or pin the version before"
        )
    assert imagenette.ARCHIVES.keys() == {"full", "320px", "160px"}
    for url, md5 in imagenette.ARCHIVES.values():
        assert url.startswith("https://") and url.endswith(".tgz") and len(md5) == 32


def test_the_order_of_the_classes_which_labels_depend_on_has_not_changed() -> None:
    assert list(imagenette.CLASSES.values()) == [
        *["tench", "English springer", "cassette player", "chain saw", "church"],
        *["French horn", "garbage truck", "gas pump", "golf ball", "parachute"],
    ]
    assert sorted(WNIDS) == WNIDS


def test_labels_follow_that_order_whatever_the_order_of_the_archive() -> None:
    splits = imagenette.find(NAMES[::-1])
    for split in ("train", "val"):
        assert splits[split] == [(f"top/{split}/{wnid}/a.JPEG", i) for i, wnid in enumerate(WNIDS)]


def test_what_is_not_an_image_is_ignored() -> None:
    extra = ["top/noisy_imagenette.csv", "top/readme.JPEG", f"top/train/{WNIDS[0]}/list.txt"]
    extra += [f"top/train/{WNIDS[0]}/._a.JPEG", "top/val/._x/a.JPEG", "top/val/.x/a.JPEG"]
    assert imagenette.find(NAMES + extra) == imagenette.find(NAMES)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([*NAMES, "top/val/n9/a.JPEG"], "'n9' is not a class of Imagenette; member 'top/val/n9/"),
        ([name for name in NAMES if f"val/{WNIDS[3]}" not in name], f"no image; val/{WNIDS[3]} in"),
        (
            [*NAMES, f"top/val/{WNIDS[0]}/\udcff.JPEG"],
            "its name is not UTF-8: rename it; memb",
        ),
        (NAMES[10:], f"no image; val/{WNIDS[0]} in the archive; correct data.url"),
        (["other/file.txt"], f"no image; train/{WNIDS[0]} in the archive"),
    ],
)
def test_another_archive_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        imagenette.find(names)
    assert str(caught.value).startswith(message)
