"""Attention Branch Networks: train one, measure whether its map explains it, predict with it.

    model = abn.load("checkpoint/model.safetensors")
    print(model.predict("image.png"))

The names below are imported at their first use: `import abn` alone takes no time. Their types are
in __init__.pyi.
"""

import importlib
from typing import Any

_HOMES = {
    "AttentionBranchNetwork": "abn.models.abn",
    "Prediction": "abn.inference.prediction",
    "Predictor": "abn.inference.predictor",
    "__version__": "abn.version",
    "load": "abn.inference.predictor",
}


def __getattr__(name: str) -> Any:
    """The public `name`; AttributeError for every other."""
    if name not in _HOMES:
        raise AttributeError(f"module 'abn' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
