"""params.yaml, typed, frozen and checked once: the values are there, their rules are here.

`abn schema` prints the JSON schema that editors read (schema/params.schema.json).
"""

import itertools
import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from abn.config.messages import InvalidCombination, params_error
from abn.runtime.redaction import redacted

Arch = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
Attention = Literal["residual", "look"]
NAMED_STARTS = ("random", "imagenet")  # of train.init; all else is a path
CUT = 256 / 224  # the short side over the crop, where the params do not say it
LARGEST = 10**9  # of any count; beyond it, integers overflow before memory is full
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=32, le=1024)]
FromList = Field(strict=False)  # YAML has lists, we keep tuples; their items stay strict


def _printable(text: str) -> str:
    """`text` unless it would move a terminal's cursor or hide in a table."""
    if not text.isprintable():
        raise ValueError("give a text without control characters")
    return text


def _in_project(path: str) -> str:
    """`path` unless it leads out of the project; a link in the project may."""
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or set(path) & set("\\:"):
        raise ValueError("give a path in the project, with / between folders; a link will do")
    return path


Text = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_printable)]
ProjectPath = Annotated[Text, AfterValidator(_in_project)]
Url = Annotated[Text, PlainSerializer(redacted, when_used="json")]  # JSON is shown to others


class Section(BaseModel):
    """Closed, strict and immutable; a comment under a field becomes its help in editors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Shapes(Section):
    train: Count
    """Images in the training split."""
    val: Count
    """Images in the validation split."""
    clutter: Share
    """How busy the background is: its texture's amplitude, and 8 strokes at 1; 0 is flat."""
    distractors: Annotated[int, Field(ge=0, le=3)]
    """Most distractors in one image."""
    diameter: Annotated[tuple[Share, Share], FromList]
    """Smallest and largest diameter of the shape, as shares of the image's side."""
    shortcut: Share | None
    """Chance that a patch at the border has the colour of the class; null: no patch."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.diameter
        _require(0.1 <= low <= high <= 0.6, "diameter", "give [low, high] within 0.1 and 0.6")
        return self


class Data(Section):
    name: Literal["shapes", "imagenette", "folder"]
    """The data set: rendered here, downloaded, or your own folder of images."""
    size: Pixels
    """Side of the square canvas every image is packed on, in pixels."""
    seed: Seed
    """Renders the shapes, splits a folder and cuts the hold-out."""
    holdout: Annotated[float, Field(ge=0, le=0.5)]
    """Share of the training split kept out of training, to select and watch on; 0: none."""
    variant: Literal["full", "320px", "160px"]
    """imagenette: which of the three published archives."""
    url: Url | None
    """imagenette: another address or a local file to take the archive from."""
    md5: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None
    """imagenette: the checksum of the file at `url`."""
    root: ProjectPath
    """folder: holds train/CLASS/* and val/CLASS/*, or CLASS/*; also masks/; watched by DVC."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    """folder: share of every class for validation where ROOT has no train/ and val/."""
    allow_duplicates: bool
    """folder: pack also where an image is in both splits; the scores are then too good."""
    shapes: Shapes

    @model_validator(mode="after")
    def _check(self) -> Self:
        both = (self.url is None) == (self.md5 is None)
        _require(both, "md5", "data.url and data.md5 go together: give both or neither")
        return self


def _flip(value: Any) -> Any:
    """One message for both kinds of value."""
    if value is True or value is False or value == "alternating":
        return value
    raise ValueError("give true, false or 'alternating'")


class Look(Section):
    contrast: Annotated[float, Field(gt=0, le=1)]
    """How far the map dims the picture where it is lowest: 1 hides it, 0.5 halves its contrast."""
    start: Annotated[float, Field(ge=0, lt=1)]
    """Share of the training after which the network looks twice; before, it decides at once."""


class Train(Section):
    epochs: Count
    """Passes over the training split."""
    batch_size: Annotated[int, Field(ge=2, le=LARGEST)]
    """Images a step."""
    sizes: Annotated[tuple[Pixels, ...], Field(strict=False, min_length=1)]
    """Sides of the training crops, in pixels; more than one: training grows through them."""
    grow_at: Annotated[tuple[Share, ...], FromList]
    """Shares of the training after which the next size is taken; one fewer than sizes."""
    crop_scale: Annotated[tuple[Share, Share], FromList]
    """Smallest and largest share of an image's area in a random crop."""
    flip: Annotated[bool | Literal["alternating"], BeforeValidator(_flip)]
    """Mirror a random half of the images; alternating: every other epoch the other half."""
    jitter: Annotated[float, Field(ge=0, lt=1)]
    """Largest change of brightness, contrast and saturation, as a share; 0: off."""
    trivial: Share
    """TrivialAugment: share of the images that get one operation, of any strength; 0: off."""
    erase: Share
    """Share of the images in which a rectangle is blanked out; 0: off."""
    mixup: Annotated[float, Field(ge=0, le=10)]
    """Alpha of Mixup's beta distribution; 0: off."""
    cutmix: Annotated[float, Field(ge=0, le=10)]
    """Alpha of CutMix's beta distribution; 0: off. With both on, a coin decides."""
    mix_share: Share
    """Share of the batches that are mixed; 0: none."""
    mix_until: Share
    """Share of the training after which no batch is mixed."""
    attention_loss: Annotated[float, Field(ge=0, le=1000)]
    """Weight of the loss between the map and the object's mask; 0: off, no mask is read."""
    attention_masks: Annotated[float, Field(gt=0, le=1)]
    """attention_loss: share of the masks that is used, drawn evenly over the classes."""
    optimizer: Literal["sgd", "muon"]
    """muon: kernels of the blocks move by Muon, all else by SGD."""
    lr: Annotated[float, Field(gt=0)]
    """Peak learning rate of SGD."""
    muon_lr: Annotated[float, Field(gt=0)]
    """Peak learning rate of Muon; its momentum is 0.95."""
    momentum: Annotated[float, Field(ge=0, lt=1)]
    nesterov: bool
    weight_decay: Annotated[float, Field(ge=0)]
    decay_norm_and_bias: bool
    """Whether weight decay also shrinks batch norms and biases."""
    schedule: Literal["step", "cosine"]
    """step: multiply by gamma at each milestone; cosine: fall to zero."""
    milestones: Annotated[tuple[Count, ...], FromList]
    """step: epochs after which the rate is multiplied by gamma."""
    gamma: Annotated[float, Field(gt=0, le=1)]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    """Share of the training in which the rate rises linearly from zero."""
    sam: Annotated[float, Field(ge=0, le=10)]
    """SAM: length of the step uphill where the gradient is taken; 0: off. Such steps cost twice."""
    sam_from: Annotated[float, Field(ge=0, lt=1)]
    """SAM: share of the training after which it is on."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    balance: Literal["none", "weights", "sampling"]
    """weights: every class counts the same in the loss; sampling: is shown equally often."""
    zero_init: bool
    """Start every residual block as the identity: its last norm's weight at zero."""
    init: ProjectPath
    """First weights: random; imagenet (torchvision's ResNet); or a path, starts/x.safetensors."""
    init_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    """The SHA-256 of the file that init names; null otherwise."""
    freeze: Literal["none", "stem", "layer1", "layer2", "layer3"]
    """Parts up to this one keep their first weights and the statistics of their norms."""
    new_lr: Annotated[float, Field(gt=0, le=1000)]
    """Learning rate of the parts that init did not fill, as a multiple of that of the others."""
    look: Look
    """`attention: look` only: how the network learns to decide on pictures under a map."""
    ema: Annotated[float, Field(ge=0, lt=1)]
    """Decay per step of a moving average of the weights, which then is the model; 0: off."""
    precision: Literal["bf16", "fp32"]
    """bf16: autocast on CUDA; the CPU always computes in fp32."""
    compile: Literal["auto", "on", "off"]
    """Compile the network (CUDA only); auto: if the training is long enough to gain by it."""
    val_size: Pixels | None
    """Side of the centre crop validated on, in pixels; null: the last of sizes."""
    val_resize: Pixels | None
    """Short side of the images validated on before that crop, in pixels; null: 8/7 of the crop."""
    validate_every: Count
    """Epochs between validations; the last epoch is always validated."""
    select: Literal["last", "best"]
    """Which epoch's weights are kept; best: highest top-1 on the hold-out, if there is one."""
    save_every: Annotated[int, Field(ge=0, le=LARGEST)]
    """Epochs between the epoch-XXXX.safetensors that are also kept; 0: none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        one_fewer = len(self.grow_at) == len(self.sizes) - 1
        _require(
            one_fewer, "grow_at", f"sizes has {len(self.sizes)}, so give {len(self.sizes) - 1} here"
        )
        _require(_rising(self.grow_at), "grow_at", "the shares must rise")
        _require(_rising(self.milestones), "milestones", "the epochs must rise")
        size, resize = self.view
        _require(resize >= size, "val_resize", f"the crop of {size} needs at least that")
        mixes = not self.mix_share or bool(self.mixup or self.cutmix)
        _require(mixes, "mix_share", "give mixup or cutmix an alpha above 0, or set this to 0")
        all_mixed = self.mix_share == 1 and self.epochs - 1 < self.mix_until * self.epochs
        remedy = "train.attention_loss needs batches that are not mixed: lower this or mix_until"
        _require(not (self.attention_loss and all_mixed), "mix_share", remedy)
        self._check_start()
        low, high = self.crop_scale
        _require(0 < low <= high, "crop_scale", "give [low, high] with 0 < low <= high <= 1")
        moving = self.momentum > 0 or not self.nesterov
        _require(moving, "nesterov", "Nesterov needs a momentum above 0")
        return self

    @property
    def view(self) -> tuple[int, int]:
        """Side of the centre crop validated on, and the short side before that crop, pixels."""
        size = self.val_size or self.sizes[-1]
        return size, self.val_resize or round(size * CUT)

    def _check_start(self) -> None:
        """What goes with random first weights, and where a file of first weights may be."""
        named = self.init in NAMED_STARTS
        _require(not (named and self.init_sha256), "init_sha256", "null, unless init names a file")
        inside = PurePosixPath(self.init).parts[:1] == ("checkpoint",)
        _require(not inside, "init", "this stage replaces checkpoint/: copy the file elsewhere")
        alike = self.freeze == "none" and self.new_lr == 1
        remedy = "random weights all have to learn: give train.freeze: none and train.new_lr: 1.0"
        _require(self.init != "random" or alike, "init", remedy)


class Evaluate(Section):
    checkpoint: ProjectPath
    """The weights to evaluate, such as checkpoint/epoch-0010.safetensors."""
    batch_size: Count
    size: Pixels | None
    """Side of the centre crop the network sees, in pixels; explain and visualize see the same.
    null: as the network was validated."""
    resize: Pixels | None
    """Length of the image's short side before that crop, in pixels; null where size is."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        both = (self.size is None) == (self.resize is None)
        _require(both, "resize", "give numbers for both, size and resize, or null for both")
        size, resize = self.view or (0, 0)
        _require(resize >= size, "resize", f"the crop of {size} needs at least that")
        return self

    @property
    def view(self) -> tuple[int, int] | None:
        """`size` and `resize`; None: those of the network's validation."""
        return (self.size, self.resize) if self.size and self.resize else None


class Gates(Section):
    live: Annotated[float, Field(ge=1, le=2)]
    """Least ratio of the largest gain to the smallest; the gain is 1 + map, or in look the map."""
    causal: Share
    """Least share of the decisions that shuffling the map must change."""
    faithful: Share
    """Least SRG, and by how much it must beat the centre's and the edges'."""
    local: Share
    """By how much AUROC on the object must beat the centre control."""
    stable: Share
    """Least overlap (IoU of the top fifth of the cells) with networks of other seeds."""
    sane: Share
    """Most rank correlation that may remain after what makes the map is re-initialised."""
    leak: Annotated[float, Field(ge=1, le=10)]
    """look: how often, in multiples of chance, an empty picture under the map may be named."""
    class_specific: Share
    """look: least share of the maps of one class among four that make this class win."""


class Explain(Section):
    checkpoint: ProjectPath
    profile: Literal["quick", "full"]
    """How much is spent on RISE, re-initialised networks and mosaics."""
    images: Annotated[int, Field(ge=2, le=LARGEST)]
    """Validation images to score, spread evenly over the classes."""
    seed: Seed
    """Which images these are, and every other draw; the same for networks of all seeds."""
    steps: Annotated[int, Field(ge=2, le=LARGEST)]
    """Steps of an insertion or deletion curve; it has one point more."""
    siblings: Annotated[tuple[ProjectPath, ...], FromList]
    """Checkpoints of the same network trained from other seeds, to see if the map is stable."""
    gates: Gates
    """Thresholds of the verdict; they are the project's proposals, not a standard."""


class Visualize(Section):
    checkpoint: ProjectPath
    classes: Count
    """How many classes to show: one image each in the sheet, three in the report."""
    errors: Annotated[int, Field(ge=0, le=100)]
    """How many of the most confident errors the gallery shows; 0: none."""
    map: Literal[
        "attention",
        "recommended",
        "att_cam",
        "grad_attention",
        "hirescam",
        "gradcam",
        "gradcam_pp",
    ]
    """Which map to draw; `recommended` is the one in metrics/explain.json, if any passes."""
    colours: Literal["jet", "viridis"]
    """jet: added to the image, as in the original; viridis: over its grey, one scale for all."""
    alpha: Share
    """Strength of the heat map, 0 to 1; the original has 1."""
    dpi: Annotated[int, Field(ge=50, le=600)]


class Params(Section):
    """All that a result depends on, except code, data and machine."""

    arch: Arch
    attention: Attention
    """How the map acts: residual, on the features (the official ABN); look, on the picture."""
    smooth: bool
    """Blur before each stride of the trunk; no other weights. false: the official ABN."""
    seed: Seed
    """Initial weights, order and augmentation."""
    data: Data
    train: Train
    evaluate: Evaluate
    explain: Explain
    visualize: Visualize

    @model_validator(mode="after")
    def _check(self) -> Self:
        # A frozen norm has statistics of whole pictures only, and look also sees dimmed ones.
        held = self.attention == "look" and self.train.freeze != "none"
        _require(not held, "attention", "look trains all its norms: use train.freeze: none")
        return self


def load(path: Path) -> Params:
    """The parameters in the file `path`; ParamsError for the first thing that is wrong."""
    from abn.config import yaml_file  # here: an installation that only predicts has no PyYAML

    values = yaml_file.read(path)
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise params_error(path, Params, error.errors(include_url=False)) from None


def schema() -> str:
    """The JSON schema of params.yaml, as it is committed."""
    return json.dumps(Params.model_json_schema(), indent=2) + "\n"


def _require(condition: bool, key: str, remedy: str) -> None:
    if not condition:
        raise InvalidCombination(key, remedy)


def _rising(values: tuple[float, ...]) -> bool:
    return all(low < high for low, high in itertools.pairwise(values))
