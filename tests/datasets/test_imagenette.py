"""Imagenette's facts, and finding its images among the names of an archive."""

import pytest
from torchvision.datasets import Imagenette

from abn.datasets import imagenette
from abn.runtime.errors import UserError

WNIDS = list(imagenette.CLASSES)
NAMES = [f"top/{split}/{wnid}/a.JPEG" for split in ("val", "train") for wnid in WNIDS]


def test_archives_and_classes_are_torchvisions():
    assert imagenette.VARIANTS == Imagenette._ARCHIVES
    first = {wnid: names[0] for wnid, names in Imagenette._WNID_TO_CLASS.items()}
    assert list(imagenette.CLASSES.items()) == list(first.items())


def test_the_size_of_every_archive_is_known():
    assert list(imagenette.SIZES) == [md5 for _, md5 in imagenette.VARIANTS.values()]


def test_labels_follow_the_fixed_order_whatever_the_order_of_the_archive():
    found = imagenette.find(NAMES[::-1])
    assert found["train"] == [(f"top/train/{wnid}/a.JPEG", i) for i, wnid in enumerate(WNIDS)]
    assert found["val"] == [(f"top/val/{wnid}/a.JPEG", i) for i, wnid in enumerate(WNIDS)]


def test_images_are_sorted_by_name():
    more = [f"top/train/{WNIDS[0]}/{name}.JPEG" for name in ("c", "b")]
    names = [name for name, label in imagenette.find(more + NAMES)["train"] if label == 0]
    assert names == [f"top/train/{WNIDS[0]}/{name}.JPEG" for name in "abc"]


def test_what_is_no_image_is_ignored():
    extra = ["top/noisy_imagenette.csv", "top/readme.JPEG", f"top/train/{WNIDS[0]}/list.txt"]
    assert imagenette.find(NAMES + extra) == imagenette.find(NAMES)


def test_an_unknown_class_is_named():
    with pytest.raises(UserError, match="n99999999 is no class"):
        imagenette.find([*NAMES, "top/val/n99999999/a.JPEG"])


def test_an_empty_class_is_named():
    names = [name for name in NAMES if name != f"top/val/{WNIDS[3]}/a.JPEG"]
    with pytest.raises(UserError, match=f"no image; val/{WNIDS[3]} in"):
        imagenette.find(names)


@pytest.mark.parametrize("names", [[], ["other/file.txt"]])
def test_another_archive_is_refused(names):
    with pytest.raises(UserError, match="in the archive"):
        imagenette.find(names)
