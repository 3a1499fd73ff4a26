"""The processes that work in a folder: DVC's, git's and the stages' own."""

from itertools import pairwise
from pathlib import Path

import psutil

WORKER = "queue-worker"  # of `dvc queue start`: in the project's root, but it changes nothing there
TEMPORARY = Path(".dvc/tmp/exps")  # where DVC runs what is queued or --temp


def at_work(root: Path) -> list[str]:
    """Those that may be changing files of the working tree `root`, each in words."""
    return [words for folder, words in _ours(root) if not _is_aside(root, folder, words)]


def at_work_aside(root: Path) -> list[str]:
    """Those that work on queued or temporary experiments of `root`."""
    return [words for folder, words in _ours(root) if _is_aside(root, folder, words)]


def is_ours(process: int) -> bool:
    """Whether the process with that number is alive and no stranger that got the number later."""
    try:
        return _is_ours(psutil.Process(process).cmdline())
    except psutil.Error:
        return False


def _ours(root: Path) -> list[tuple[Path, str]]:
    """The folder and the words of each, but not of this process and of those that started it."""
    above = {process.pid for process in [psutil.Process(), *psutil.Process().parents()]}
    found = []
    for process in psutil.process_iter(["pid", "cwd", "cmdline"]):
        folder, command = Path(process.info["cwd"] or "/"), process.info["cmdline"] or []
        if process.pid not in above and folder.is_relative_to(root) and _is_ours(command):
            found.append((folder, f"process {process.pid} ({' '.join(command)})"))
    return found


def _is_ours(command: list[str]) -> bool:
    programs = {Path(word).name for word in command[:2]}
    modules = {module for option, module in pairwise(command) if option == "-m"}
    stage = any(module.startswith("stages.") for module in modules - {"abn.cli.doctor"})
    waits = any("daemon" in word for word in command[1:3])  # git's and DVC's, for hours
    return stage or (not waits and ("dvc" in programs | modules or "git" in programs))


def _is_aside(root: Path, folder: Path, words: str) -> bool:
    return folder.is_relative_to(root / TEMPORARY) or f" {WORKER} " in words
