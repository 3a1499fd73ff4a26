"""The processes that may be changing files of this project: DVC, git and the stages."""

from itertools import pairwise
from pathlib import Path

import psutil


def at_work(root: Path) -> list[str]:
    """Those that run in `root`, or in a folder we may not read; each in words.

    An empty list does not prove that nobody is at work: containers, other machines and programs
    that use DVC as a library are not seen.
    """
    above = {process.pid for process in [psutil.Process(), *psutil.Process().parents()]}
    lines = []
    for process in psutil.process_iter(["pid", "cwd", "cmdline"]):
        folder, command = process.info["cwd"], process.info["cmdline"] or []
        if process.pid in above or not is_relevant(command):
            continue
        if folder is None or Path(folder).is_relative_to(root):
            lines.append(f"process {process.pid} ({' '.join(command)})")
    return lines


def is_relevant(command: list[str]) -> bool:
    """Whether a command line is DVC, git or a stage, but not one of their idle daemons."""
    words = [Path(word).name for word in command if not word.startswith("-")][:2]
    modules = [word for flag, word in pairwise(command) if flag == "-m"]
    known = {"dvc", "git"}.intersection([*words, *modules])
    stage = any(word.startswith("stages.") for word in modules)
    return (bool(known) or stage) and not any("daemon" in word for word in command[1:4])
