"""What benchmarks keep: trained as the pipeline does, once, and gone on with after a kill."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from abn.config.params import Params, load
from abn.models import checkpoint
from abn.project.inputs import look
from abn.runtime.errors import ParamsError
from abn.runtime.signals import GracefulStop
from abn.training import loop, optim
from abn.training.distributed import SINGLE
from abn.training.state import State
from benchmarks import kept
from benchmarks.kept import TimedStore
from stages import train as stage
from tests import toys

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def small() -> Params:
    """32 pictures of 32 px, two epochs of four steps."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["data"]["size"] = 32
    values["data"]["shapes"] |= {"train": 32, "val": 10}
    values["train"] |= {"epochs": 2, "batch_size": 8, "sizes": [32]}
    values["train"] |= {"val_size": 32, "val_resize": 32}
    return Params.model_validate(values)


def options(path: Path, *words: str) -> argparse.Namespace:
    return kept.parser("", path, [0]).parse_args(["-S", *words] if words else [])


@pytest.mark.parametrize("mode", ["residual", "look"])
def test_a_training_has_the_bytes_of_the_train_stage(
    mode: str,
    small: Params,
    changed: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = changed(small, attention=mode, seed=7)
    work = tmp_path / "work"
    training = kept.train((params, kept.data(params.data, work)), work)
    (packed,) = (work / "data").iterdir()
    shutil.copytree(packed, tmp_path / "data")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABN_TRACKING", "off")
    stage.train(params, look("train", params), SINGLE, GracefulStop())
    written = tmp_path / "checkpoint/model.safetensors"
    assert training.file.read_bytes() == written.read_bytes()
    assert training.row()["weights"] == checkpoint.sha256(written)
    assert training.network().looks == (mode == "look")


def test_what_is_kept_is_not_trained_again(
    small: Params, changed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = changed(small, train=changed(small.train, epochs=1))
    splits = kept.data(params.data, tmp_path)
    (first,) = kept.train_all({"one": (params, splits)}, tmp_path)

    def refuse(*given: Any, **named: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(loop, "fit", refuse)
    (again,) = kept.train_all({"one": (params, splits)}, tmp_path)
    assert again == first
    with pytest.raises(AssertionError, match="trained again"):  # another seed is another training
        kept.train((changed(params, seed=1), splits), tmp_path)


def test_a_killed_training_goes_on_to_the_same_bytes(
    small: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TimedStore, "due", lambda self, epoch_ends=False: True)
    splits = kept.data(small.data, tmp_path)
    whole = kept.train((small, splits), tmp_path / "whole").file.read_bytes()
    validate, seen = loop.validate, list[int]()

    def killed(*given: Any) -> Any:
        seen.append(1)
        if len(seen) == 1:
            raise RuntimeError("killed")
        return validate(*given)

    monkeypatch.setattr(loop, "validate", killed)
    with pytest.raises(RuntimeError, match="killed"):
        kept.train((small, splits), tmp_path / "cut")
    assert kept.train((small, splits), tmp_path / "cut").file.read_bytes() == whole
    assert not list((tmp_path / "cut").rglob("state-*"))  # no longer needed


def test_work_that_a_kill_made_to_be_done_again_is_counted_once(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [10.0, 100.0]  # CPU seconds of this process, and the wall's
    monkeypatch.setattr(kept, "_clocks", lambda: tuple(clock))
    model = toys.network()
    state = State({"model": model}, optim.sgd(model, params.train))
    store = TimedStore(tmp_path)
    clock[:] = 13.0, 107.0
    store.save(state)  # it has cost 3 and 7 seconds
    clock[:] = 15.0, 110.0  # killed here: 2 and 3 seconds are lost
    assert store.spent() == (5.0, 10.0)
    clock[:] = 1.0, 500.0  # another process
    store = TimedStore(tmp_path)
    assert store.load(state)
    clock[:] = 3.0, 504.0
    assert store.spent() == (5.0, 11.0)


def test_parameters_are_changed_by_dotted_key_and_checked() -> None:
    words = ("train.epochs=9", "train.sizes=[32, 64]", "train.grow_at=[0.5]", "arch=resnet34")
    found = kept.params(options(ROOT / "params.yaml", *words), seed=3, **{"data.size": 48})
    assert (found.train.epochs, found.train.sizes, found.arch) == (9, (32, 64), "resnet34")
    assert (found.seed, found.data.size) == (3, 48)
    assert found.train.lr == load(ROOT / "params.yaml").train.lr


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.epochs", "not key=value"),
        ("=3", "not key=value"),
        ("train.epoch=3", "unknown key.*did you mean epochs"),
        ("seed.x=3", "unknown key.*seed is a value"),
        ("train.epochs=many", "wrong value"),
    ],
)
def test_a_change_that_cannot_be_made_is_one_line(word: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        kept.params(options(ROOT / "params.yaml", word))


def test_a_record_does_not_say_where_the_data_came_from(
    params: Params, changed: Callable[..., Any]
) -> None:
    here = changed(params, data=changed(params.data, url="/home/me/archive.tgz", md5="0" * 32))
    recipe = kept.recipe(here, "seed")
    assert "/home/me" not in json.dumps(recipe)
    given = options(ROOT / "params.yaml", "data.url=/home/me/archive.tgz")
    settings = kept.settings(given, recipe, "seeds")
    assert "/home/me" not in str(settings) and settings["recipe"] == recipe
    assert "seeds" not in settings and settings["attention"] == ["residual", "look"]
    assert recipe["data"]["md5"] == "0" * 32 and "seed" not in recipe and "arch" in recipe


def test_a_folder_of_images_is_packed_again_when_it_has_changed(
    params: Params, changed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def paint(value: int) -> None:
        for green, name in enumerate(("train/a/1", "train/b/1", "val/a/1", "val/b/1")):
            file = tmp_path / f"images/{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (value, green, 0)).save(file)

    config = changed(params.data, name="folder", size=32)
    paint(10)
    dark, _ = kept.data(config, tmp_path / "work")
    paint(200)
    bright, _ = kept.data(config, tmp_path / "work")
    assert int(dark.images[0, 0, 0, 0]) == 10 and int(bright.images[0, 0, 0, 0]) == 200


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    first = kept.measured(tmp_path / "a/b.json", lambda: {"value": 1.5})
    again = kept.measured(tmp_path / "a/b.json", lambda: {"value": float(torch.rand(1))})
    assert first == again == {"value": 1.5}
