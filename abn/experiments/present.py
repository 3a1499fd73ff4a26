"""Which results in a working tree were made of the weights that are there now.

Metrics, tables and pictures stay when other weights take the place of those they describe.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from abn.experiments import dvc
from abn.experiments.dvc import Experiment
from abn.project import paths

MODEL, LOCK = paths.CHECKPOINT / paths.MODEL, Path("dvc.lock")


class Present:
    """The files of the working tree `folder`, in which a stage runs since `since` (seconds)."""

    def __init__(self, folder: Path, since: float = float("inf")) -> None:
        self.folder, self.since = folder, since
        files = (folder / LOCK, folder / paths.PARAMS)
        self.lock, params = (file.read_text("utf-8") if file.is_file() else "" for file in files)
        self.params = dvc.yaml(params)

    def weights(self) -> str:
        """The sha256 of the weights; empty where there are none."""
        file = self.folder / MODEL
        return dvc.digest(file, "sha256") if file.is_file() else ""

    def recipe(self) -> dict[str, Any]:
        """The params in the weights' header, read without torch, whose import takes seconds."""
        with safe_open(self.folder / MODEL, framework="numpy") as file:
            return dict(json.loads((file.metadata() or {}).get("abn", "{}")).get("params", {}))

    def is_of(self, experiment: Experiment) -> bool:
        """Whether the results here are those of `experiment`."""
        mine = dvc.recorded(self.lock, "train", self.folder, paths.CHECKPOINT)
        return mine and dvc.text(experiment, LOCK) == self.lock

    def files(self, stage: str, pattern: Path, skip: Callable[[str], object]) -> list[Path]:
        """The files of `pattern` that `stage` made of the weights; `skip` gets a line on others."""
        files = sorted(self.folder.glob(str(pattern)))
        mine = [file for file in files if self._is_of_weights(stage, file)]
        for file in files:
            if file not in mine:
                skip(f"{file.relative_to(self.folder)}: not made of the weights here, left out")
        return mine

    def _is_of_weights(self, stage: str, file: Path) -> bool:
        """dvc.lock says so, or the stage that runs now wrote it; train writes a whole folder."""
        source = paths.CHECKPOINT if stage == "train" else MODEL
        section = self.params.get(stage, {})
        if section.get("checkpoint") == str(source) and file.stat().st_mtime >= self.since - 1:
            return True  # 1: the clock of a disk may be behind
        return dvc.recorded(self.lock, stage, self.folder, source, file.relative_to(self.folder))
