"""Small stand-ins for the real thing: tinted noise to learn, a network that learns it at once."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from abn.config.params import Attention, Train
from abn.data.loader import CenterCrop
from abn.data.packed import Sample, Split, Writer
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.runtime.rng import generator
from abn.training import pretrained

CPU = torch.device("cpu")
WHOLE = CenterCrop(32, 32)  # all of a square image
TINTS = torch.tensor([[200, 0, 0], [0, 0, 200], [0, 200, 0], [200, 200, 0]])
NAMES = ("red", "blue", "green", "yellow")


def split(count: int = 40, classes: int = 4, size: int = 32, seed: int = 0) -> Split:
    """Noise under the tint of its class, labels in turn; the object is one quarter of the image."""
    labels = torch.arange(count) % classes
    noise = torch.randint(55, (count, size, size, 3), generator=generator(seed, "toys"))
    images = (noise + TINTS[labels][:, None, None]).to(torch.uint8)
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    half = size // 2
    for i, label in enumerate(labels.tolist()):
        top, left = half * (label // 2), half * (label % 2)
        masks[i, top : top + half, left : left + half] = 1
    about = NAMES[:classes], "toys", f"seed {seed}", tuple(f"toy/{i}" for i in range(count))
    return Split(images, labels, torch.ones(count), masks, *about)


def samples(split: Split) -> Iterator[Sample]:
    """`split` image by image."""
    for i, (image, label) in enumerate(zip(split.images.numpy(), split.labels, strict=True)):
        mask = None if split.masks is None else split.masks[i].numpy()
        yield Sample(image, int(label), float(split.aspect[i]), mask)


def pack(path: Path, split: Split) -> Path:
    """`path`, with `split` in it."""
    size, masks = split.images.shape[1], split.masks is not None
    writer = Writer(path, split.files, size, split.classes, split.source, masks)
    for sample in samples(split):
        writer.add(sample)
    writer.close()
    return path


def saved(
    folder: Path,
    classes: tuple[str, ...],
    size: int = 32,
    resize: int = 32,
    canvas: int | None = None,
    attention: Attention = "residual",
    smooth: bool = False,
    unlike_below: float | None = None,
) -> Path:
    """The checkpoint of an untrained ResNet-18 for `classes`, written to `folder`."""
    torch.manual_seed(0)
    network = AttentionBranchNetwork("resnet18", len(classes), attention=attention, smooth=smooth)
    shown = {"val_size": size, "val_resize": resize}
    params = {"arch": "resnet18", "attention": attention, "seed": 0, "data": {"holdout": 0.0}}
    params["train"] = {"epochs": 1, "batch_size": 2, "sizes": [32]} | shown
    params |= {"smooth": True} if smooth else {}
    state = {"model": checkpoint.weights(network)}
    checkpoint.save_all(folder, state, classes, params, canvas, unlike_below)
    return folder / "model.safetensors"


class Network(AttentionBranchNetwork):
    """What the real network takes and gives, from a thousandth of the weights; a map of 4 x 4.

    Its parts have the real names, so that they can be found; those it has not do nothing.
    """

    def __init__(self, classes: int = 4, attention: Attention = "residual") -> None:
        nn.Module.__init__(self)  # none of the real parts
        self.looks = attention == "look"
        self.conv1 = nn.Conv2d(3, 8, 4, stride=4)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Conv2d(8, 8, 2, stride=2)
        self.att_conv3 = nn.Conv2d(8, 1, 1)
        self.att_conv2 = nn.Conv2d(8, classes, 1)
        self.layer4 = nn.Conv2d(8, 8, 2, stride=2)
        self.fc = nn.Linear(8, classes)
        for name in ("layer2", "layer3", "att_layer4", "bn_att", "att_conv", "bn_att2", "bn_att3"):
            setattr(self, name, nn.Identity())
        norms = [nn.BatchNorm2d(8, affine=False)] if self.looks else []
        self.look_norms = nn.ModuleList(norms)
        if self.looks:
            del self.att_conv3

    def _normalised(self, images: Tensor) -> Tensor:
        return images

    def _trunk(self, x: Tensor) -> Tensor:
        return self.layer1(self.bn1(self.conv1(x)).relu())

    def attention_branch(self, features: Tensor) -> tuple[Tensor, Tensor]:
        class_maps = self.att_conv2(features)
        if self.looks:
            return class_maps, self.class_attention(class_maps, class_maps.mean((2, 3)).argmax(1))
        return class_maps, self.att_conv3(features).sigmoid()

    def perception_branch(self, attended: Tensor) -> Tensor:
        return self.fc(self.layer4(attended).relu().mean((2, 3)))


def network(classes: int = 4, seed: int = 0, attention: Attention = "residual") -> Network:
    """A network whose weights depend on `seed` alone, channels last as the train stage has it."""
    torch.manual_seed(seed)
    return Network(classes, attention).to(memory_format=torch.channels_last)


def start(folder: Path, attention: Attention = "residual") -> dict[str, str]:
    """The values of `train.init` and `init_sha256` for a toy of other classes, in a file."""
    weights = {"model": checkpoint.weights(network(3, seed=9, attention=attention))}
    params = {"arch": "resnet18", "attention": attention, "seed": 0, "data": {"holdout": 0.0}}
    params["train"] = {"epochs": 1, "batch_size": 2, "sizes": [32]}
    checkpoint.save_all(folder, weights, NAMES[1:], params)
    path = folder / "model.safetensors"
    return {"init": str(path), "init_sha256": checkpoint.sha256(path)}


def begun(
    config: Train, seed: int = 0, attention: Attention = "residual"
) -> tuple[Network, frozenset[str]]:
    """A network as the train stage gives it to the loop, and its parameters that are new."""
    model, filled = network(seed=seed, attention=attention), None
    if found := pretrained.read(config, "resnet18"):
        filled = pretrained.fill(model, NAMES, found)
    pretrained.freeze(model, config.freeze)
    return model, pretrained.new_parameters(model, filled)
