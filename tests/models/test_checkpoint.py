"""Checkpoints: what was trained comes back, the same bytes each time, and nothing else loads."""

import json
import stat
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from abn.config.params import Arch
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.runtime.errors import UserError
from abn.runtime.rng import generator
from tests import toys
from tests.toys import CPU, NAMES

RECIPE = {
    "arch": "resnet18",
    "seed": 3,
    "train": {"lr": 0.05, "epochs": 2, "batch_size": 8, "sizes": [32]},
    "data": {"holdout": 0.0},
}
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


def test_a_checkpoint_of_another_network_is_refused_before_anything_is_copied(
    tmp_path: Path, model: AttentionBranchNetwork
) -> None:
    tensors = checkpoint.weights(model) | {"att_conv.weight": torch.zeros(5, 512, 1, 1)}
    path = written(tmp_path / "model.safetensors", tensors)
    with pytest.raises(UserError) as caught:  # tests/faults/checkpoints.py has the other kinds
        checkpoint.load(path, CPU)
    said = "att_conv.weight holds F32 [5, 512, 1, 1] where the network has F32 [4, 512, 1, 1]"
    assert str(caught.value) == f"{said}; {path}; name another file, or train anew"


@pytest.mark.parametrize("arch", get_args(Arch))
def test_the_longest_header_is_far_from_what_is_refused(arch: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        layout = AttentionBranchNetwork(arch, 1000).state_dict()
    names = sum(len(name) + 80 for name in layout)  # a type, a shape and two places in the file
    assert names < checkpoint.LONGEST / 4


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
