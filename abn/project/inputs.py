"""The inputs of a stage, as dvc.yaml lists them.

DVC records the inputs when a stage ends. So a stage compares them before and after: a result of the
old inputs must not be recorded as one of the new.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from abn.config import yaml_file
from abn.config.params import Params, load
from abn.project import paths
from abn.runtime.errors import ChangedError

Stamp = tuple[int, int, int]  # size, time of the last change, number of a file


class Inputs(NamedTuple):
    """The inputs of a stage at one moment."""

    stage: str
    params: dict[str, Any]  # the values that it reads, by dotted key
    code: dict[str, str]  # digests of its source files
    data: dict[str, Stamp]  # every other file

    def check(self) -> None:
        """ChangedError unless they are still the same."""
        now = look(self.stage, load(paths.PARAMS))
        for name in ("params", "code", "data"):
            old, new = getattr(self, name), getattr(now, name)
            if changed := sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k)):
                what = f"changed while the stage ran: {', '.join(changed)}"
                raise ChangedError(what, f"{name} of {self.stage}", "run the same command again")


def look(stage: str, params: Params) -> Inputs:
    """The present inputs of `stage`; none for a module that is not in dvc.yaml.

    `params` are those of params.yaml.
    """
    graph = yaml_file.read(paths.GRAPH)["stages"]
    described = graph.get(stage, {"deps": [], "params": []})
    filled = partial(re.sub, r"\$\{([\w.]+)\}", lambda match: str(_value(params, match[1])))
    files = [file for dep in described["deps"] for file in _files(filled(dep))]
    code = {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.suffix == ".py"}
    data = {str(file): _stamp(file) for file in files if file.suffix != ".py"}
    return Inputs(stage, {key: _value(params, key) for key in described["params"]}, code, data)


def _value(params: Params, key: str) -> Any:
    value: Any = params.model_dump(mode="json")
    for name in key.split("."):
        value = value[name]
    return value


def _files(dep: str) -> Iterator[Path]:
    """The files of `dep`, a file or a folder; none where it is missing: the stage reports that."""
    path = Path(dep)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return (file for file in files if file.is_file() and not _is_litter(file))


def _is_litter(file: Path) -> bool:
    """Whether Python, an editor or a desktop made the file; no stage reads it."""
    return "__pycache__" in file.parts or file.name.startswith(".") or file.name.endswith("~")


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
