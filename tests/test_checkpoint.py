"""Checkpoints: what was trained comes back, the same bytes each time, and nothing else loads."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from abn import checkpoint
from abn.errors import UserError
from abn.model import AttentionBranchNetwork
from abn.rng import generator
from tests import toys
from tests.toys import CPU, NAMES

RECIPE = {"arch": "resnet18", "seed": 3, "train": {"lr": 0.05}}
META: dict[str, Any] = {"arch": "resnet18", "classes": NAMES, "params": RECIPE}


@pytest.fixture(scope="module")
def model() -> AttentionBranchNetwork:
    torch.manual_seed(0)
    return AttentionBranchNetwork("resnet18", 4).eval()


def small(seed: int = 0) -> dict[str, Tensor]:
    return checkpoint.weights(toys.network(seed=seed))


def save(folder: Path, **snapshots: dict[str, Tensor]) -> Path:
    checkpoint.save_all(folder, snapshots, "resnet18", NAMES, RECIPE)
    return folder


def written(path: Path, tensors: dict[str, Tensor], **meta: Any) -> Path:
    """A file whose header says something else."""
    save_file(tensors, path, {"abn": json.dumps(META | meta)})
    return path


def test_what_was_trained_comes_back(tmp_path: Path, model: AttentionBranchNetwork) -> None:
    save(tmp_path / "checkpoint", model=checkpoint.weights(model))
    found = checkpoint.load(tmp_path / "checkpoint/model.safetensors", CPU)
    assert (found.arch, found.classes, found.params) == ("resnet18", NAMES, RECIPE)
    assert not found.model.training
    image = torch.rand(1, 3, 32, 32, generator=generator("image"))
    with torch.inference_mode():
        for one, other in zip(found.model(image), model(image), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    first, again = (save(tmp_path / n, model=small()) / "model.safetensors" for n in ("a", "b"))
    other = save(tmp_path / "c", model=small(seed=1)) / "model.safetensors"
    assert first.read_bytes() == again.read_bytes()
    assert checkpoint.sha256(first) == checkpoint.sha256(again) != checkpoint.sha256(other)


def test_the_header_is_one_key_of_json(tmp_path: Path) -> None:
    folder = save(tmp_path / "checkpoint", model=small())
    with safe_open(folder / "model.safetensors", "pt") as file:
        (key,), (value,) = zip(*file.metadata().items(), strict=True)
    assert key == "abn" and json.loads(value) == META | {"classes": list(NAMES)}


def test_weights_are_a_copy_in_the_plain_layout() -> None:
    network = toys.network()
    copy = checkpoint.weights(network)
    assert copy["layer1.weight"].is_contiguous()
    assert not network.layer1.weight.is_contiguous()  # channels last
    torch.nn.init.zeros_(network.fc.weight)
    assert copy["fc.weight"].all()


def test_everyone_may_read_a_checkpoint(tmp_path: Path) -> None:
    folder = save(tmp_path / "checkpoint", model=small())
    assert stat.S_IMODE((folder / "model.safetensors").stat().st_mode) == 0o644


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    save(folder, **{"model": small(), "epoch-0001": small()})
    (tmp_path / "checkpoint.part").mkdir()  # of a save that was interrupted
    (tmp_path / "checkpoint.part/rest.safetensors").touch()
    save(folder, model=small(), best=small())
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.safetensors",
        "model.safetensors",
    ]
    assert list(tmp_path.iterdir()) == [folder]


def test_an_impossible_save_leaves_the_former_folder(tmp_path: Path) -> None:
    folder = save(tmp_path / "checkpoint", model=small())
    before = checkpoint.sha256(folder / "model.safetensors")
    shared = torch.zeros(2)
    with pytest.raises(RuntimeError):  # safetensors refuses tensors that share their memory
        save(folder, model={"a": shared, "b": shared})
    assert checkpoint.sha256(folder / "model.safetensors") == before


FAULTS = {
    "not there": (lambda path: None, "no such checkpoint"),
    "a folder": (lambda path: path.mkdir(), "no such checkpoint"),
    "text": (lambda path: path.write_text("weights"), "not a checkpoint of this project"),
    "empty": (lambda path: path.touch(), "not a checkpoint of this project"),
    "foreign": (
        lambda path: save_file({"fc.weight": torch.zeros(1)}, path),
        "not a checkpoint of this project",
    ),
    "no JSON": (lambda path: save_file({}, path, {"abn": "resnet"}), "not a checkpoint of this"),
    "another arch": (lambda path: written(path, {}, arch="vgg16"), "unknown arch 'vgg16'"),
    "a tensor is missing": (
        lambda path: written(path, {}),
        r"att_conv\.weight holds nothing where the network has \(4, 512, 1, 1\)",
    ),
    "a tensor too many": (
        lambda path: written(path, {"a": torch.zeros(2)}),
        r"a holds \(2,\) where the network has nothing",
    ),
    "another number of classes": (
        lambda path: written(path, {"att_conv.weight": torch.zeros(5, 512, 1, 1)}),
        r"att_conv\.weight holds \(5, 512, 1, 1\) where the network has \(4, 512, 1, 1\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, fault: str) -> None:
    make, message = FAULTS[fault]
    make(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=rf"^{message}.*model\.safetensors; ") as error:
        checkpoint.load(tmp_path / "model.safetensors", CPU)
    assert "\n" not in str(error.value)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoint", model=small()) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        checkpoint.load(path, CPU)


def test_any_safetensors_file_is_read_with_its_header(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3), "a": torch.rand(2, 3)}
    save_file(tensors, tmp_path / "any", {"key": "value"})
    header, found = checkpoint.read(tmp_path / "any")
    assert header == {"key": "value"}
    assert found.keys() == tensors.keys()
    assert all(found[name].equal(tensor) for name, tensor in tensors.items())
    save_file(tensors, tmp_path / "bare")
    assert checkpoint.read(tmp_path / "bare")[0] == {}


def test_what_cannot_be_read_is_told_apart_from_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("weights")
    with pytest.raises(SafetensorError):
        checkpoint.read(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        checkpoint.read(tmp_path / "nothing")
