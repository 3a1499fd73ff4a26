"""The pictures of the report, inside the page: small, and without a file of their own."""

import base64

import cv2
from matplotlib import colormaps
from matplotlib.colors import to_hex

from abn.visualize.figures import Panel

QUALITY = 85  # of the JPEGs


def data_uri(panel: Panel) -> str:
    """A panel's picture as a data URI: cells of a map as PNG without loss, images as JPEG."""
    kind, options = ("png", []) if panel.cells else ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    _, encoded = cv2.imencode(f".{kind}", panel.pixels[..., ::-1], options)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def ramp(palette: str) -> str:
    """`palette` as a CSS gradient, lowest colour left."""
    stops = ", ".join(to_hex(colormaps[palette](i / 8)) for i in range(9))
    return f"linear-gradient(to right, {stops})"
