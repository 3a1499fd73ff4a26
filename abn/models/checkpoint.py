"""Checkpoints: a safetensors file of weights, whose header says what network they are of.

The header is one JSON text under the key "abn": arch, attention, smooth where it is on, classes,
params of the training, the side of the canvases that its images were packed on, and the score
below which an image is unlike them.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from abn.config.params import Arch, Attention, Params
from abn.models.abn import AttentionBranchNetwork
from abn.runtime import files
from abn.runtime.errors import DataError

FINAL = "model"  # the snapshot of the finished training
NAMES = re.compile(r"(model|epoch-\d{4,})\.safetensors")  # of the files in the train stage's folder
VIEW = "val_size", "val_resize"  # of params.train: how the images validated on were shown
REMEDY = "use a checkpoint that the train stage wrote, or train again"


class LookParams(BaseModel):
    contrast: float = Field(gt=0, le=1)


class TrainParams(BaseModel):
    epochs: int
    batch_size: int
    sizes: list[int]
    look: LookParams = LookParams(contrast=1.0)  # older files have none, and need none


class DataParams(BaseModel):
    holdout: float


class Recipe(BaseModel):
    """What later stages need of the params of the training; the file has more."""

    seed: int
    train: TrainParams
    data: DataParams


class Header(BaseModel):
    """What a checkpoint says about its weights, also where another project trained them."""

    arch: Arch
    attention: Attention = "residual"  # older files have no other
    classes: tuple[str, ...] = Field(min_length=1)
    canvas: int | None = Field(None, gt=0)  # older files have none
    # The energy score below which an image is unlike the training data; older files have none.
    unlike_below: float | None = Field(None, allow_inf_nan=False)
    branch_relu: bool = False
    smooth: bool = False  # older files have none
    start_only: bool = False  # a plain ResNet: what training starts from, without a branch

    @property
    def contrast(self) -> float:
        """How far the map of `look` dims."""
        return 1.0


class Trained(Header):
    """The header of a network that the train stage trained."""

    params: Recipe

    @property
    def contrast(self) -> float:
        return self.params.train.look.contrast


class Converted(Header):
    """The header of weights that `abn convert` made of another project's."""

    converted: str  # what they were


class Checkpoint(NamedTuple):
    """A network in eval mode and what it was trained on."""

    model: AttentionBranchNetwork
    arch: str
    classes: tuple[str, ...]
    params: dict[str, Any]
    canvas: int | None = None  # pixels; None: not known
    unlike_below: float | None = None  # `loop.unlike_below`; None: not known


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of `model`'s state on the CPU, contiguous as files need it."""
    return {name: t.to("cpu", copy=True).contiguous() for name, t in model.state_dict().items()}


def recipe(params: Params) -> dict[str, Any]:
    """The params that the weights depend on, for the header."""
    data = {"data": params.data.model_dump(include={"holdout", "seed"})}
    names = {"arch", "attention", "smooth", "seed", "train"}
    said = params.model_dump(mode="json", include=names)
    said["train"] |= dict(zip(VIEW, params.train.view, strict=True))  # as numbers, never null
    return said | data


def validated(trained: Checkpoint, where: Path | str) -> tuple[int, int]:
    """The side of the centre crop that `trained` was validated on, and the short side before it.

    In pixels. DataError where its header lacks them: the file at `where` is an old one.
    """
    train = trained.params["train"]
    if missing := [name for name in VIEW if name not in train]:
        what = f"its header lacks train.{missing[0]}"
        raise DataError(what, where, "train again with this version")
    size, resize = (int(train[name]) for name in VIEW)
    return size, resize


def save_all(
    folder: Path,
    snapshots: dict[str, dict[str, Tensor]],
    classes: tuple[str, ...],
    params: dict[str, Any],
    canvas: int | None = None,
    unlike_below: float | None = None,
) -> None:
    """Replace `folder` by one with NAME.safetensors for each of `snapshots`, all or nothing.

    `params` is a `recipe`; `canvas` the side of the packed images, pixels; `unlike_below` is of the
    snapshot named `model`, other weights have other scores. The same weights give the same bytes.
    OSError where the disk refuses, DiskError where `folder` holds another's file.
    """
    about = {"arch": params["arch"], "attention": params["attention"], "classes": classes}
    about |= {"params": params} | ({"canvas": canvas} if canvas else {})
    about |= {"smooth": True} if params.get("smooth") else {}
    own = {"unlike_below": unlike_below} if unlike_below is not None else {}
    with files.replacing_folder(folder, NAMES) as part:
        for name, state in snapshots.items():
            meta = json.dumps(about | (own if name == FINAL else {}), sort_keys=True)
            write(part / f"{name}.safetensors", state, {"abn": meta})


def load(path: Path, device: torch.device) -> Checkpoint:
    """The network at `path` in eval mode on `device`; DataError where it is not a checkpoint."""
    if not path.is_file():
        raise DataError("no such checkpoint", path, "run `dvc repro train`, or name another file")
    with _refused(path):
        header, state, params = _opened(path)
        if header.start_only:
            raise ValueError("a ResNet without an attention branch, good as train.init only")
        with _NoDraws():
            model = AttentionBranchNetwork(
                header.arch,
                len(header.classes),
                attention=header.attention,
                contrast=header.contrast,
                branch_relu=header.branch_relu,
                smooth=header.smooth,
            )
        model.load_state_dict(state)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    about = header.arch, header.classes, params, header.canvas, header.unlike_below
    return Checkpoint(model.eval(), *about)


class _NoDraws(TorchFunctionMode):
    """Inside, new layers keep whatever is in memory: a file's weights are about to replace it.

    To draw them takes longer than to read the file.
    """

    DRAWS = frozenset((nn.init.kaiming_uniform_, nn.init.uniform_, Tensor.normal_))

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in self.DRAWS:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def open_file(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """The header and the tensors of the checkpoint at `path`; DataError where it is none."""
    with _refused(path):
        header, state, _ = _opened(path)
    return header, state


def _opened(path: Path) -> tuple[Header, dict[str, Tensor], dict[str, Any]]:
    """Header, tensors and params of a checkpoint; what `_refused` catches where it is none."""
    metadata, state = read(path)
    text = metadata.get("abn", "")
    header = _header(text)
    if 4 * len(header.classes) ** 2 > path.stat().st_size:  # a float for each pair
        raise ValueError(f"too small for {len(header.classes)} classes")
    if bad := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{bad[0]} holds values that are not finite")
    return header, state, json.loads(text)["params"]


def _header(text: str) -> Header:
    """The header of either kind; ValidationError, as of a trained one, where it is neither."""
    try:
        return Trained.model_validate_json(text, strict=True)
    except ValidationError:
        with suppress(ValidationError):
            return Converted.model_validate_json(text, strict=True)
        raise


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """DataError for what is wrong with the checkpoint at `path`."""
    try:
        yield
    except (SafetensorError, ValueError, RuntimeError) as error:  # the last: of load_state_dict
        what = f"not a checkpoint of this project ({_one_line(error)})"
        raise DataError(what, path, REMEDY) from None


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header of any safetensors file and all its tensors; SafetensorError where it is none."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.offset_keys()}


def write(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """A safetensors file; OSError where the disk refuses.

    Use one key in `header`: safetensors writes several in any order.
    """
    try:
        save_file(tensors, path, metadata=header)
    except SafetensorError as error:
        if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    path.chmod(0o644)  # safetensors leaves 0600


def for_classes(trained: Checkpoint, classes: tuple[str, ...], where: Path) -> Checkpoint:
    """`trained`, asked only for `classes`, the data's: DataError unless it knows all of them.

    A network that knows more, such as ImageNet's 1000, decides among those of the data: the last
    layer of each branch keeps their rows, found by name. Its map stays what it was in `residual`;
    in `look` it is that of the class decided on.
    """
    if trained.classes == classes:
        return trained
    known = {name: row for row, name in enumerate(trained.classes)}
    if missing := [name for name in classes if name not in known]:
        what = f"the data has {len(missing)} classes that it does not know, such as {missing[0]}"
        raise DataError(what, where, "use a checkpoint trained on these classes")
    if len(classes) == len(trained.classes):
        what = "the data has the classes in another order"
        raise DataError(what, where, "use a checkpoint trained on these classes")
    rows = torch.tensor([known[name] for name in classes])
    for layer in (trained.model.fc, trained.model.att_conv2):
        for parameter in layer.parameters():
            parameter.data = parameter.data[rows.to(parameter.device)]
    trained.model.fc.out_features = trained.model.att_conv2.out_channels = len(classes)
    return trained._replace(classes=classes, unlike_below=None)  # it was of all their logits


def sha256(path: Path) -> str:
    """The content of `path` in 64 hexadecimal digits: a model's name in tracking."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_line(error: Exception) -> str:
    """The first thing that `error` says is wrong, in at most 200 characters."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "its header"
        return f"{key}: {first['msg'][:200]}"
    return str(error)[:200]
