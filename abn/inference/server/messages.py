"""What the server takes and gives, as JSON: the same classes make its OpenAPI."""

import base64
import io
from itertools import islice
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from abn.inference.prediction import Prediction
from abn.visualize.overlay import seen

Map = NDArray[np.float32]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Row = Annotated[list[Share], Field(min_length=1, max_length=256)]
Png = Annotated[str, Field(json_schema_extra={"format": "base64"})]


class Edited(BaseModel):
    """An image, and a map in the place of the network's own."""

    model_config = ConfigDict(extra="forbid")

    image: Base64Bytes = Field(description="the image file in base64")
    map: Annotated[list[Row], Field(min_length=1, max_length=256)] | None = Field(
        None, description="rows of cells in 0 to 1, as many as /model says; none: the network's own"
    )

    def attention(self) -> Map | None:
        """The map as an array [h, w]; ValueError where its rows differ in length."""
        return None if self.map is None else np.array(self.map, np.float32)


class Confidence(BaseModel):
    name: str
    confidence: Share


class Region(BaseModel):
    """What the network saw of the upright image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Answer(BaseModel):
    """What the network says of an image."""

    label: str = Field(description="the most confident class of the perception branch")
    perception: list[Confidence] = Field(description="most confident first: the answer")
    attention: list[Confidence] = Field(description="of the attention branch, in its own order")
    energy: float = Field(description="log(sum(exp(logits))) of the perception branch")
    unlike: bool | None = Field(
        description="whether the image is unlike the training data, by `energy`: doubt the answer; "
        "null: the checkpoint is older, or the map is the one of the request"
    )
    edited: bool = Field(description="whether the map is the one of the request")
    map: list[list[Share]] = Field(description="where the network looked; the cells of `region`")
    map_png: Png = Field(description="the map as a grey PNG in base64: a pixel a cell, 255 is 1")
    width: int = Field(description="of the upright image, pixels")
    height: int
    region: Region
    view_png: Png | None = Field(description="`region` as the network gets it; with `pictures`")
    seen_png: Png | None = Field(
        description="`view_png` under the map, which the perception branch of a `look` network "
        "decides on; with `pictures`, null for a `residual` network: its map weighs features"
    )


class Model(BaseModel):
    """The network, and what it accepts."""

    classes: list[str]
    attention: str = Field(description="`look` or `residual`: how the map acts")
    size: int = Field(description="side in pixels of what the network sees")
    map: list[int] = Field(min_length=2, max_length=2, description="rows and columns of the map")
    max_bytes: int
    max_pixels: int
    version: str


class Health(BaseModel):
    status: str
    version: str


class Refusal(BaseModel):
    """Why there is no answer."""

    reason: str


def answer(
    prediction: Prediction, top: int, edited: bool, view: torch.Tensor | None, looks: bool
) -> Answer:
    """`prediction` as JSON, `top` classes of it; with `view` [1, 3, S, S] the two pictures too."""
    drawn = torch.from_numpy(prediction.map)[None, None]
    under = seen(view, drawn) if view is not None and looks else None
    height, width = prediction.image.shape[:2]
    return Answer(
        label=prediction.label,
        perception=_listed(prediction.classes, top),
        attention=_listed(prediction.attention_confidences, top),
        energy=prediction.energy,
        unlike=prediction.unlike,
        edited=edited,
        map=prediction.map.tolist(),
        map_png=_png(drawn),
        width=width,
        height=height,
        region=Region(**dict(zip(Region.model_fields, prediction.region, strict=True))),
        view_png=None if view is None else _png(view),
        seen_png=None if under is None else _png(under),
    )


def _listed(confidences: dict[str, float], top: int) -> list[Confidence]:
    best = islice(confidences.items(), top)
    # A float32 softmax can end an ulp above 1.
    return [Confidence(name=name, confidence=min(1.0, share)) for name, share in best]


def _png(image: torch.Tensor) -> str:
    """`image` [1, C, H, W] in [0, 1] as a PNG in base64, grey where C is 1."""
    pixels = image[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
