"""Weights of other projects as checkpoints of this one, checked by a forward pass.

The official ABN (a .pth.tar of its training), the project that this one came from (a folder of
Hugging Face's Trainer, or its model.safetensors), and torchvision's ResNets. All three name the
tensors as we do, below a prefix of their own.
"""

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.models.resnet import ARCHS
from abn.runtime import files
from abn.runtime.errors import DataError

ORIGINAL = "model."  # the attribute of its Hugging Face model; no other source has it
PREFIXES = ("module.", ORIGINAL)  # the first is DataParallel's
SIZE, RESIZE = 224, 256  # pixels: all three validate on the centre 224 where the short side is 256
TOLERANCE = 1e-6  # of the largest logit
IMAGES, SIDE = 2, 64  # of the forward pass that compares; pixels
REMEDY = "give the official ABN's .pth.tar, the Trainer's folder or model.safetensors, or a ResNet"


class Converted(NamedTuple):
    """What was read, and how it compares with what it came from."""

    header: dict[str, Any]
    state: dict[str, Tensor]
    difference: float  # largest, over the largest logit


def convert(path: Path, classes: tuple[str, ...] = ()) -> Converted:
    """The weights at `path`, a file or folder, as a checkpoint's header and tensors.

    `classes` are their names, in order; without, those of a config.json beside them, else
    ImageNet's where there are 1000. DataError where `path` holds nothing that we know, or a forward
    pass differs by more than TOLERANCE.
    """
    file = _file(path)
    (state, prefix), config = _tensors(file), _config(file)
    relu = prefix == ORIGINAL
    is_branched, arch = "att_conv.weight" in state, _arch(state, file)
    names = _names(classes, config, len(state["fc.weight"]), file)
    if config and config.get("arch", arch) != arch:
        raise DataError(f"weights of a {arch}", file, f"its config.json says {config['arch']}")
    header: dict[str, Any] = {"arch": arch, "attention": "residual", "classes": names}
    header["converted"] = f"{_kind(is_branched, relu)}, sha256 {checkpoint.sha256(file)}"
    header["params"] = {"train": {"val_size": SIZE, "val_resize": RESIZE}, "data": {}}
    if not is_branched:
        header["start_only"] = True
    elif relu:
        header["branch_relu"] = True
    difference = compare(header, state)
    if difference > TOLERANCE:
        what = f"a forward pass differs by {difference:.1e} of the largest logit"
        raise DataError(what, file, f"more than {TOLERANCE:.0e}: these are not such weights")
    return Converted(header, state, difference)


def write(converted: Converted, path: Path) -> None:
    """The checkpoint at `path`, which must not exist yet; OSError where the disk refuses."""
    if path.exists():
        raise DataError("is there already", path, "name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps(converted.header, sort_keys=True)
    with files.replacing(path) as part:
        checkpoint.write(part, converted.state, {"abn": header})


def compare(header: dict[str, Any], state: dict[str, Tensor]) -> float:
    """The largest difference between our network and the source's function, in float64.

    The source's is torchvision's own ResNet with the branch as its authors wrote it, spelt here
    from theirs and not from ours.
    """
    count = len(header["classes"])
    model = AttentionBranchNetwork(header["arch"], count, branch_relu="branch_relu" in header)
    model.load_state_dict(state, strict="start_only" not in header)
    model = model.double().eval()
    images = torch.rand(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        theirs = _theirs(header, state, (images - model.mean) / model.std)
        if "start_only" in header:
            ours = [model.perception_branch(model.features(images))]
        else:
            ours = list(model(images))
    return max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True)
    )


def _theirs(header: dict[str, Any], state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """Logits, those of the attention branch, and the map; of a ResNet the logits alone."""
    import torchvision  # type: ignore[import-untyped]  # here: it takes two seconds

    build = getattr(torchvision.models, header["arch"])
    net, branch = (build(num_classes=len(header["classes"])).double().eval() for _ in range(2))
    net.load_state_dict({name: state[name] for name in net.state_dict()})
    for step in (net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3):
        x = step(x)
    if "start_only" in header:
        return [net.fc(net.layer4(x).mean((2, 3)))]
    branch.layer4.load_state_dict(_below("att_layer4.", state))
    for module in branch.layer4[0].modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
    double = {name: tensor.double() for name, tensor in state.items()}
    a = _norm(branch.layer4(x), "bn_att", double)
    a = F.relu(a) if "branch_relu" in header else a
    a = F.relu(_norm(F.conv2d(a, double["att_conv.weight"]), "bn_att2", double))
    drawn = _norm(F.conv2d(a, double["att_conv3.weight"], padding=1), "bn_att3", double).sigmoid()
    logits = F.conv2d(a, double["att_conv2.weight"]).mean((2, 3))
    return [net.fc(net.layer4(x * drawn + x).mean((2, 3))), logits, drawn]


def _norm(x: Tensor, name: str, state: dict[str, Tensor]) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}


def _file(path: Path) -> Path:
    """The file of weights that `path` is or holds."""
    places = [path, path / "model.safetensors"]
    if found := next((place for place in places if place.is_file()), None):
        return found
    raise DataError("no weights here", path, "give a file, or a folder with model.safetensors")


def _tensors(file: Path) -> tuple[dict[str, Tensor], str]:
    """The state dict in `file` in float32, without its prefix, and that; nothing in it is run."""
    about: dict[str, str] = {}
    try:
        if file.suffix == ".safetensors":
            about, tensors = checkpoint.read(file)
            state: Any = tensors
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"not weights ({str(error)[:100]})", file, REMEDY) from None
    except Exception as error:  # of unpickling: UnpicklingError, and whatever else bytes lead to
        what = f"holds more than weights ({type(error).__name__})"
        raise DataError(what, file, "such a file could run code; " + REMEDY) from None
    if "abn" in about:  # its header says more than its tensors: how the map acts, what is blurred
        raise DataError("a checkpoint of this project already", file, "use it as it is")
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), "")
    tensors = _below(prefix, tensors)
    if bad := [name for name, x in tensors.items() if not x.isfinite().all()]:
        raise DataError(f"{bad[0]} holds values that are not finite", file, REMEDY)
    whole = {k: x.float().contiguous() if x.is_floating_point() else x for k, x in tensors.items()}
    return whole, prefix


def _config(file: Path) -> dict[str, Any]:
    """The config.json that Hugging Face puts beside weights; {} where there is none."""
    beside = file.with_name("config.json")
    if not beside.is_file():
        return {}
    try:
        config = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"not JSON ({error})", beside, "correct or remove it") from None
    return config if isinstance(config, dict) and config.get("model_type") == "abn" else {}


def _arch(state: dict[str, Tensor], file: Path) -> str:
    """The ARCHS whose network has just these names and shapes."""
    if "fc.weight" in state and state["fc.weight"].ndim == 2:
        found = {name: x.shape for name, x in state.items()}
        for arch in ARCHS:
            with torch.device("meta"):
                model = AttentionBranchNetwork(arch, len(state["fc.weight"]))
            whole = {name: x.shape for name, x in model.state_dict().items()}
            trunk = {k: x for k, x in whole.items() if "att_" not in k and "bn_att" not in k}
            if found in (whole, trunk):
                return arch
    raise DataError("not the tensors of an ABN or a ResNet of torchvision", file, REMEDY)


def _names(
    classes: tuple[str, ...], config: dict[str, Any], count: int, file: Path
) -> tuple[str, ...]:
    """The names of the `count` classes, in order."""
    labels = config.get("id2label", {})
    known = tuple(str(labels.get(str(i), "")).partition(" / ")[0] for i in range(count))
    if not classes and count == 1000 and not all(known):
        from torchvision.models import ResNet18_Weights  # type: ignore[import-untyped]

        known = tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    names = classes or known
    if len(names) != count or not all(names) or len(set(names)) != count:
        what = f"{count} classes, and {len(set(filter(None, names)))} names for them"
        raise DataError(what, file, "give them with --classes FILE, one a line, in order")
    return names


def _kind(is_branched: bool, relu: bool) -> str:
    if not is_branched:
        return "torchvision's ResNet"
    return "the original project's ABN, with a ReLU after bn_att" if relu else "the official ABN"
