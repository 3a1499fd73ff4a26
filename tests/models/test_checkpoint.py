"""Checkpoints: what was trained comes back, in the same bytes each time; nothing else loads."""

import io
import json
import pickle
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from abn.config.params import Params
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.runtime import files
from abn.runtime.errors import DataError
from abn.runtime.rng import generator
from stages import train
from tests import test_stages, toys
from tests.stage_process import environment
from tests.toys import CPU, NAMES

RECIPE = {
    "arch": "resnet18",
    "attention": "residual",
    "seed": 3,
    "train": {"lr": 0.05, "epochs": 2, "batch_size": 8, "sizes": [32]},
    "data": {"holdout": 0.0},
}
META: dict[str, Any] = {
    "arch": "resnet18",
    "attention": "residual",
    "classes": NAMES,
    "params": RECIPE,
}


@pytest.fixture(scope="module")
def model() -> AttentionBranchNetwork:
    torch.manual_seed(0)
    return AttentionBranchNetwork("resnet18", 4).eval()


def small(seed: int = 0) -> dict[str, Tensor]:
    return checkpoint.weights(toys.network(seed=seed))


def save(folder: Path, **snapshots: dict[str, Tensor]) -> Path:
    checkpoint.save_all(folder, snapshots, NAMES, RECIPE)
    return folder


def test_what_was_trained_comes_back(tmp_path: Path, model: AttentionBranchNetwork) -> None:
    save(tmp_path / "checkpoint", model=checkpoint.weights(model))
    path = tmp_path / "checkpoint/model.safetensors"
    found = checkpoint.load(path, CPU)
    assert (found.arch, found.classes, found.params) == ("resnet18", NAMES, RECIPE)
    assert not found.model.training and found.canvas is None  # as older files
    assert not found.model.smooth and "smooth" not in json.loads(checkpoint.read(path)[0]["abn"])
    image = torch.rand(1, 3, 32, 32, generator=generator("image"))
    with torch.inference_mode():
        for one, other in zip(found.model(image), model(image), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["residual", "look"])
def test_a_smooth_network_comes_back_smooth(tmp_path: Path, params: Params, attention: str) -> None:
    """From params.yaml through the train stage's network and file."""
    of = params.model_copy(update={"smooth": True, "attention": attention})
    made, _ = train.network(of, NAMES, None)
    folder, recipe = tmp_path / "checkpoint", checkpoint.recipe(of)
    checkpoint.save_all(folder, {"model": checkpoint.weights(made)}, NAMES, recipe)
    path = folder / "model.safetensors"
    assert json.loads(checkpoint.read(path)[0]["abn"])["smooth"] is True
    found, image = checkpoint.load(path, CPU).model, torch.rand(1, 3, 48, 48)
    assert found.smooth
    with torch.inference_mode():
        for one, other in zip(found(image), made.eval()(image), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_loading_draws_no_random_number(tmp_path: Path, model: AttentionBranchNetwork) -> None:
    save(tmp_path / "checkpoint", model=checkpoint.weights(model))
    before = torch.get_rng_state()
    checkpoint.load(tmp_path / "checkpoint/model.safetensors", CPU)
    assert torch.get_rng_state().equal(before)


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


def test_the_header_holds_the_side_of_the_canvases(
    tmp_path: Path, model: AttentionBranchNetwork
) -> None:
    folder = tmp_path / "checkpoint"
    checkpoint.save_all(folder, {"model": checkpoint.weights(model)}, NAMES, RECIPE, canvas=64)
    assert checkpoint.load(folder / "model.safetensors", CPU).canvas == 64


def test_the_header_says_in_numbers_how_images_are_to_be_shown(
    tmp_path: Path, params: Params, changed: Any
) -> None:
    shown = changed(params.train, sizes=(48,), val_size=None, val_resize=None)
    recipe = checkpoint.recipe(changed(params, train=shown))
    assert (recipe["train"]["val_size"], recipe["train"]["val_resize"]) == (48, 55)
    trained = checkpoint.Checkpoint(toys.network(), "resnet18", NAMES, recipe)
    assert checkpoint.validated(trained, tmp_path) == (48, 55)


def test_a_header_of_an_old_version_that_says_no_size_is_refused(tmp_path: Path) -> None:
    trained = checkpoint.Checkpoint(toys.network(), "resnet18", NAMES, {"train": {"val_size": 64}})
    with pytest.raises(DataError, match=r"lacks train.val_resize; .*train again"):
        checkpoint.validated(trained, tmp_path)


@pytest.mark.usefixtures("toy_arch")
def test_the_score_below_which_an_image_is_unlike_is_of_the_finished_weights_alone(
    tmp_path: Path,
) -> None:
    folder, snapshots = tmp_path / "checkpoint", {"model": small(), "epoch-0001": small()}
    checkpoint.save_all(folder, snapshots, NAMES, RECIPE, 64, -0.5)
    finished = checkpoint.load(folder / "model.safetensors", CPU)
    assert finished.unlike_below == -0.5
    assert checkpoint.load(folder / "epoch-0001.safetensors", CPU).unlike_below is None
    assert checkpoint.load(save(folder, model=small()) / "model.safetensors", CPU)[4:] == (
        (None, None)  # as older files
    )


def test_a_network_of_more_classes_decides_among_those_of_the_data(tmp_path: Path) -> None:
    torch.manual_seed(1)
    names = tuple(f"class {i}" for i in range(7))
    save_of = checkpoint.weights(AttentionBranchNetwork("resnet18", 7))
    checkpoint.save_all(tmp_path / "checkpoint", {"model": save_of}, names, RECIPE, None, 1.5)
    path = tmp_path / "checkpoint/model.safetensors"
    image = torch.rand(2, 3, 64, 64, generator=generator("image"))
    with torch.inference_mode():
        whole = checkpoint.load(path, CPU).model(image)
        chosen = checkpoint.for_classes(checkpoint.load(path, CPU), ("class 5", "class 2"), path)
        found = chosen.model(image)
    assert chosen.classes == ("class 5", "class 2")
    assert chosen.unlike_below is None  # the score of seven logits says nothing of two
    torch.testing.assert_close(found.logits, whole.logits[:, [5, 2]])
    torch.testing.assert_close(found.attention_logits, whole.attention_logits[:, [5, 2]])
    assert found.attention.equal(whole.attention)


def test_a_network_that_does_not_know_the_datas_classes_is_refused(
    model: AttentionBranchNetwork,
) -> None:
    trained = checkpoint.Checkpoint(model, "resnet18", NAMES, RECIPE)
    assert checkpoint.for_classes(trained, NAMES, Path("x")) is trained
    with pytest.raises(DataError, match="classes in another order; x; use a checkpoint"):
        checkpoint.for_classes(trained, NAMES[::-1], Path("x"))
    with pytest.raises(DataError, match="1 classes that it does not know, such as owl; x"):
        checkpoint.for_classes(trained, (*NAMES[:2], "owl"), Path("x"))


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


def test_the_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    save(folder, **{"model": small(), "epoch-0001": small()})
    rest = files.partial(folder)  # of a save that was interrupted
    rest.mkdir()
    (rest / "rest.safetensors").touch()
    save(folder, **{"model": small(), "epoch-0002": small()})
    assert sorted(path.name for path in folder.iterdir()) == [
        "epoch-0002.safetensors",
        "model.safetensors",
    ]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failed_save_leaves_the_former_folder(tmp_path: Path) -> None:
    folder = save(tmp_path / "checkpoint", model=small())
    before = checkpoint.sha256(folder / "model.safetensors")
    shared = torch.zeros(2)
    with pytest.raises(RuntimeError):  # safetensors refuses tensors that share their memory
        save(folder, model={"a": shared, "b": shared})
    assert checkpoint.sha256(folder / "model.safetensors") == before
    assert list(tmp_path.iterdir()) == [folder]


def content(tensors: dict[str, Tensor] | None = None, **meta: Any) -> bytes:
    """A checkpoint of the toy network, with some tensors and some of the header replaced."""
    return serialise(small() | (tensors or {}), {"abn": json.dumps(META | meta)})


def with_value(name: str, value: float) -> bytes:
    """A checkpoint in which one weight is `value`."""
    tensor = small()[name]
    tensor.view(-1)[-1] = value
    return content({name: tensor})


def with_header_length(length: int) -> bytes:
    return length.to_bytes(8, "little") + content()[8:]


class Poison:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


def pth(marker: Path) -> bytes:
    """A file of torch.save that runs code where it is unpickled."""
    file = io.BytesIO()
    torch.save({"fc.weight": torch.zeros(2), "poison": Poison(marker)}, file)
    return file.getvalue()


def toy_network(arch: str, classes: int, **how: Any) -> toys.Network:
    return toys.Network(classes)


@pytest.fixture
def toy_arch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy network in place of the real one: the checks are the same and it is fast."""
    monkeypatch.setattr(checkpoint, "AttentionBranchNetwork", toy_network)


# What the file holds, and what the message says.
OTHER = "not a checkpoint of this project"
LAYOUT = r"Error\(s\) in loading state_dict"
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (bytes, OTHER),
    "text": (lambda: b"<html>not found</html>", OTHER),
    "cut off in the header": (lambda: content()[:100], OTHER),
    "without its last byte": (lambda: content()[:-1], OTHER),
    "a byte too long": (lambda: content() + b"\0", OTHER),
    "a header longer than the file": (lambda: with_header_length(10**6), OTHER),
    "a header of 2**63 bytes": (lambda: with_header_length(1 << 63), OTHER),
    "of another project": (lambda: serialise({"fc.weight": torch.zeros(1)}), OTHER),
    "no JSON in the header": (lambda: serialise({}, {"abn": "resnet18"}), "Invalid JSON"),
    "a list in the header": (lambda: serialise({}, {"abn": "[]"}), OTHER),
    "a header nested 100,000 deep": (lambda: serialise({}, {"abn": "[" * 100_000}), OTHER),
    "another arch": (lambda: content(arch="vgg16"), "arch: Input should be 'resnet18'"),
    "no classes": (lambda: content(classes=[]), "classes: "),
    "a class that is a number": (lambda: content(classes=["a", "b", "c", 7]), "classes.3: "),
    "one class more": (lambda: content(classes=[*NAMES, "x"]), LAYOUT),
    "50,000 classes": (lambda: content(classes=list(map(str, range(50_000)))), "too small for 50"),
    "a score that is no number": (lambda: content(unlike_below=float("nan")), "unlike_below: "),
    "params that are a list": (lambda: content(params=[]), "params: "),
    "params without train": (lambda: content(params={"seed": 0}), "params.train: "),
    "no tensors": (lambda: serialise({}, {"abn": json.dumps(META)}), LAYOUT),
    "a tensor more": (lambda: content({"\x1b[2J" * 99: torch.zeros(2)}), LAYOUT),
    "another shape": (lambda: content({"fc.bias": torch.zeros(5)}), f"{LAYOUT}.*fc.bias"),
    "smooth that is a word": (lambda: content(smooth="yes"), "smooth: Input should be a valid"),
    "a NaN": (lambda: with_value("fc.weight", float("nan")), "fc.weight holds values"),
    "an infinity": (lambda: with_value("bn1.running_var", float("inf")), "bn1.running_var holds"),
}


def refuse(path: Path, message: str) -> None:
    """Assert that `path` is refused in one printable line with `message`."""
    with pytest.raises(DataError, match=rf"{message}.*model\.safetensors; ") as caught:
        checkpoint.load(path, CPU)
    line = caught.value.line()
    assert line.isprintable() and len(line) < 500, line


@pytest.mark.usefixtures("toy_arch")
@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path, (make, message) = tmp_path / "model.safetensors", REFUSED[name]
    path.write_bytes(content())
    assert checkpoint.load(path, CPU).classes == NAMES  # the right one is accepted
    path.write_bytes(make())
    refuse(path, message)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "model.safetensors", "no such checkpoint")
    (tmp_path / "model.safetensors").mkdir()
    refuse(tmp_path / "model.safetensors", "no such checkpoint")


@pytest.mark.parametrize("make", [lambda marker: pickle.dumps(Poison(marker)), pth])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    marker, path = tmp_path / "marker", tmp_path / "model.safetensors"
    pickle.loads(pickle.dumps(Poison(marker)))
    assert marker.exists()  # the poison works
    marker.unlink()
    path.write_bytes(make(marker))
    refuse(path, OTHER)
    assert not marker.exists()


@pytest.mark.slow
def test_the_evaluate_stage_refuses_a_pickle_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    root = test_stages.copy(tmp_path / "project").root
    marker, path = root / "marker", root / "checkpoint" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(pth(marker))
    before = set(root.rglob("*"))
    command = [sys.executable, "-m", "stages.evaluate"]
    done = subprocess.run(command, cwd=root, env=environment(), text=True, capture_output=True)
    assert done.returncode == 3 and done.stdout == "", done.stderr
    assert done.stderr.startswith("error[DATA] ") and done.stderr.count("\n") == 1
    new = {file.name for file in set(root.rglob("*")) - before if "__pycache__" not in file.parts}
    assert new <= {".cache", "locks"}, new


IMPORTS = """
import sys
for name in ("tqdm", "filelock", "pandas", "yaml", "sklearn", "cv2", "matplotlib", "mlflow"):
    sys.modules[name] = None  # an import of it fails
from abn.models import checkpoint
"""


def test_loading_needs_only_torch_numpy_safetensors_and_pydantic() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], cwd=Path(__file__).parents[2], check=True)
