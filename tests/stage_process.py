"""What the processes of a project run with, and what they must not leave behind."""

import os
import sys
from pathlib import Path

from abn.project.paths import DONE


def environment(**more: str) -> dict[str, str]:
    """That of a stage, without ABN_* variables of this process's own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ABN_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return kept | {"PATH": path, "ABN_TRACKING": "off", "ABN_DEVICE": "cpu"} | more


def leftovers(root: Path) -> list[str]:
    """Temporary files, unfinished trainings and locks."""
    odd = [*root.rglob("*.part"), *root.rglob(".tmp*"), *unfinished(root)]
    return [str(path) for path in [*odd, *root.glob(".cache/locks/*")]]


def unfinished(root: Path) -> list[Path]:
    """The trainings that have not ended: a finished one keeps its last state."""
    return [folder for folder in root.glob(".resume/*") if not (folder / DONE).exists()]
