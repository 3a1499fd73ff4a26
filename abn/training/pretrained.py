"""Good starts: first weights from ImageNet or from a file, instead of random ones.

torchvision's ResNets have the names of our trunk, so their weights need no table: what fits by name
and shape is filled, and layer4 also fills att_layer4. What makes classes (the head) is filled only
where the classes are the same.
"""

import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from abn.config.params import Train
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.runtime.errors import DataError, ParamsError

HEAD = {"fc", "att_conv", "bn_att2", "att_conv2", "att_conv3", "bn_att3"}
FREEZABLE = {"stem": ("conv1", "bn1")} | {f"layer{i}": (f"layer{i}",) for i in (1, 2, 3)}
WITHOUT = "start without it: train.init: random, train.freeze: none, train.new_lr: 1.0"
TIMEOUT = 30.0  # seconds to wait for the server's next bytes


class Start(NamedTuple):
    """First weights by name, the classes that they name, and where they are from."""

    state: dict[str, Tensor]
    classes: tuple[str, ...]
    origin: str
    sha256: str


class Filled(NamedTuple):
    """Names of the network's state that were filled and that are new, and of what was not used."""

    filled: dict[str, str]  # name in the network -> name in the start
    new: list[str]
    unused: list[str]

    def lines(self) -> Iterator[str]:
        """What was filled and what not, by the parts of the network."""
        direct = [name for name, source in self.filled.items() if name == source]
        copied = [name for name, source in self.filled.items() if name != source]
        yield f"filled: {_parts(direct)}"
        if copied:
            sources = _parts(self.filled[name] for name in copied)
            yield f"filled from another part: {_parts(copied)} (from {sources})"
        yield f"new, random: {_parts(self.new)}"
        yield f"not used: {_parts(self.unused)}"


def read(config: Train, arch: str, root: Path = Path()) -> Start | None:
    """The start that `train.init` names, for the network `arch`; None: random weights.

    A path is looked up in the working folder, then in `root`, the project's own folder. DataError
    where weights are missing, damaged or of another arch; ParamsError where a file is not the one
    that `train.init_sha256` names: the checksum in the params is what makes it an input of the run.
    """
    if config.init == "random":
        return None
    return _imagenet(arch) if config.init == "imagenet" else _file(config, arch, root)


def fill(model: AttentionBranchNetwork, classes: tuple[str, ...], start: Start) -> Filled:
    """Copy into `model`, a network for `classes`, what fits of `start`."""
    same = classes == start.classes
    state, filled = model.state_dict(), {}
    for name, tensor in state.items():
        source = _source(name, start.state)
        is_head = name.partition(".")[0] in HEAD
        if source and (same or not is_head) and start.state[source].shape == tensor.shape:
            filled[name] = source
    with torch.no_grad():
        for name, source in filled.items():
            state[name].copy_(start.state[source])
    _fill_second_statistics(model, start.state)
    new = [name for name in state if name not in filled and not name.startswith("look_norms")]
    unused = [name for name in start.state if name not in filled.values()]
    return Filled(filled, new, unused)


def freeze(model: AttentionBranchNetwork, last: str) -> None:
    """Let the parts of `model` up to `last`, a value of `train.freeze`, keep weights and norms."""
    if last == "none":
        return
    names = list(FREEZABLE)
    held = names[: names.index(last) + 1]
    model.frozen = tuple(part for name in held for part in FREEZABLE[name])
    for part in map(model.get_submodule, model.frozen):
        part.requires_grad_(False)


def _source(name: str, state: Mapping[str, Tensor]) -> str:
    """The name in `state` of what may fill `name`; "": there is none."""
    if name in state:
        return name
    other = name.removeprefix("att_")
    return other if name.startswith("att_layer4.") and other in state else ""


def _fill_second_statistics(model: AttentionBranchNetwork, state: Mapping[str, Tensor]) -> None:
    """The statistics of look's second look begin as those of the first, where there are none."""
    if any(name.startswith("look_norms.") for name in state):
        return
    firsts = model.trunk_norms() if model.looks else []
    for first, second in zip(firsts, model.look_norms, strict=True):
        second.load_state_dict(dict(first.named_buffers()))


def _parts(names: Iterable[str]) -> str:
    """The parts of the network that `names` are of, each with its number of tensors."""
    parts = [name.partition(".")[0] for name in names]
    return ", ".join(f"{part} ({parts.count(part)})" for part in dict.fromkeys(parts)) or "nothing"


def _file(config: Train, arch: str, root: Path) -> Start:
    path = next((p for p in (Path(config.init), root / config.init) if p.is_file()), None)
    if path is None:
        remedy = "put a checkpoint of this project there; `abn convert` makes one of other files"
        raise DataError("no such file", f"train.init = {config.init}", remedy)
    digest = checkpoint.sha256(path)
    if digest != config.init_sha256:
        what = "not the file that was named" if config.init_sha256 else "not given"
        remedy = f"if the file is the one you mean, set it to {digest}"
        raise ParamsError(f"{what}: the checksum of {path}", "train.init_sha256", remedy)
    header, state = checkpoint.open_file(path)
    if header.arch != arch:
        raise DataError(f"weights of a {header.arch}", path, f"set arch: {header.arch}")
    dropped = " (without its ReLU after bn_att)" if header.branch_relu else ""
    blurred = " (learnt with smooth: true)" if header.smooth else ""
    return Start(state, header.classes, f"{config.init}{dropped}{blurred}", digest)


def _imagenet(arch: str) -> Start:
    """torchvision's IMAGENET1K_V1 weights, which all five depths have, from its own loader.

    The first eight digits of the SHA-256 are in the file's name, and are checked each time.
    """
    from torchvision.models import get_model_weights  # type: ignore[import-untyped]

    weights = get_model_weights(arch)["IMAGENET1K_V1"]
    path = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
    try:
        with _timeout():
            state = weights.get_state_dict(check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError) as error:  # the second: a wrong hash
        what = f"ImageNet's weights cannot be had ({str(error)[:100]})"
        remedy = f"fetch it elsewhere and put it at {path}; or {WITHOUT}"
        raise DataError(what, weights.url, remedy) from None
    digest = checkpoint.sha256(path)
    if (known := re.search(r"-([0-9a-f]{8})\.", path.name)) and not digest.startswith(known[1]):
        raise DataError("damaged: not the checksum in its name", path, "delete it and try again")
    return Start(state, tuple(weights.meta["categories"]), f"torchvision's {path.name}", digest)


@contextmanager
def _timeout() -> Iterator[None]:
    """Inside, a server that does not answer is given up: torch's loader waits for ever."""
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(usual)


def new_parameters(model: nn.Module, filled: Filled | None) -> frozenset[str]:
    """The names of the parameters of `model` that no start has filled; none: all are alike."""
    names = {name for name, _ in model.named_parameters()}
    return frozenset(names & set(filled.new)) if filled else frozenset()
