"""What lies in a folder of images: files to read, what is left out and why, what is wrong.

DVC says what it watches. What it does not watch is not read: a change there would go unnoticed.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from abn.datasets.problems import Problem, fault_of, few

LITTER = {  # names of what systems, network storage and desktops leave; in small letters
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "picasa.ini"),
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@snapshot", "@transcode"),
    *("#recycle", "#snapshot", "~snapshot", "$recycle.bin", "recycler", "recycled"),
    *("system volume information", "lost+found", "found.000", "network trash folder"),
    *("temporary items", "thevolumesettingsfolder", "__macosx", "__pycache__", "_vti_cnf", "cvs"),
}
OURS = {".gitkeep", ".gitignore", ".dvcignore"}  # not worth a line
LITTER_ENDINGS = ("~", ".part")  # an editor's backup, an unfinished download
SYSTEM = "left by a system or an editor"
UNWATCHED = "which DVC does not watch (.dvcignore)"
LINK = (
    "a link to a folder, behind which DVC does not look: copy the folder, or link all of data.root"
)
NOT_A_FILE = "not a file: a pipe, a device or a broken link"

Watched = Callable[[str, list[str], list[str]], tuple[list[str], list[str]]]


class Tree:
    """Names below a folder, with / between them; "" is the folder itself."""

    def __init__(self) -> None:
        self.files: dict[str, list[str]] = defaultdict(list)  # folder -> the files right in it
        self.folders: dict[str, list[str]] = defaultdict(list)  # the same, links to folders too
        self.problems: list[Problem] = []
        self.left_out: dict[str, dict[str, int]] = defaultdict(dict)  # reason -> name -> files

    def below(self, folder: str) -> list[str]:
        """The files in `folder` and in the folders in it, in an order that is always the same."""
        found, waiting = [], [folder]
        while waiting:
            inner = waiting.pop()
            found += self.files.get(inner, [])
            waiting += self.folders.get(inner, [])
        return sorted(found, key=lambda name: name.split("/"))

    def is_at_fault(self, folder: str) -> bool:
        """Whether a problem lies in `folder` or is that folder."""
        return any(f"{problem.name}/".startswith(f"{folder}/") for problem in self.problems)

    def leave_out(self, reason: str, folder: str, count: int) -> None:
        """Note that `count` files, of which `folder` is the name, are not read."""
        if count:
            self.left_out[reason][folder] = count

    def lines(self) -> list[str]:
        """A line for each reason on what is not read."""
        lines = []
        for reason, counts in self.left_out.items():
            total = sum(counts.values())
            lines.append(f"{total} file(s) not read, {reason}: {few(sorted(counts))}")
        return lines


def last(name: str) -> str:
    """The last part of `name`."""
    return name.rpartition("/")[2]


def path(root: Path, name: str) -> Path:
    """Where the file `name` below `root` is, whatever encoding the locale has."""
    return root / os.fsdecode(name.encode())


def look(root: Path) -> Tree:
    """All that lies below `root`."""
    tree = Tree()
    _walk(root, "", tree, _watched_by_dvc())
    return tree


def nfc(name: str) -> str:
    """`name` in the one of its Unicode forms that names are compared in."""
    return unicodedata.normalize("NFC", name)


def _watched_by_dvc() -> Watched:
    """DVC's own filter: (folder, names of folders, names of files) -> those of them it watches."""
    # Here: DVC takes a second to import, and only folders need it.
    from dvc.fs import localfs  # type: ignore[import-untyped]
    from dvc.ignore import DvcIgnoreFilter  # type: ignore[import-untyped]

    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)
    return DvcIgnoreFilter(localfs, str(root))


def _walk(folder: Path, name: str, tree: Tree, watched: Watched) -> None:
    """Add to `tree` what is in `folder`, which is called `name` there."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        tree.problems.append(Problem(f"cannot be read: {error.strerror or error}", name))
        return
    folders = [entry.name for entry in entries if entry.is_dir()]
    others = [entry.name for entry in entries if not entry.is_dir()]
    kept = {each for part in watched(str(folder.absolute()), folders, others) for each in part}
    seen: dict[str, str] = {}
    for entry in entries:
        own = os.fsencode(entry.name).decode("utf-8", "surrogateescape")  # in any locale
        _note(entry, f"{name}/" * bool(name) + own, entry.name in kept, tree, watched)
        if (twin := seen.setdefault(nfc(own), own)) != own:
            what = f"two names that look alike, {twin!a} and {own!a}: rename one"
            tree.problems.append(Problem(what, name))


def _note(
    entry: "os.DirEntry[str]", name: str, is_watched: bool, tree: Tree, watched: Watched
) -> None:
    """Add `entry`, which is called `name`, to `tree`."""
    folder = name.rpartition("/")[0]
    is_litter = _is_litter(last(name)) or (name.endswith(LITTER_ENDINGS) and not entry.is_dir())
    if last(name) in OURS:
        return
    if is_litter or not is_watched:
        reason = SYSTEM if is_litter else UNWATCHED
        tree.leave_out(reason, name, _count(entry))
    elif fault := fault_of(last(name)):
        tree.problems.append(Problem(fault, name))
        tree.folders[folder] += [name] if entry.is_dir() else []
    elif entry.is_file():
        tree.files[folder].append(name)
    elif not entry.is_dir():
        tree.problems.append(Problem(NOT_A_FILE, name))
    else:
        tree.folders[folder].append(name)
        if entry.is_symlink():
            tree.problems.append(Problem(LINK, name))
        else:
            _walk(Path(entry.path), name, tree, watched)


def _is_litter(name: str) -> bool:
    known = name.casefold().partition(":")[0] in LITTER  # Thumbs.db:encryptable
    return name.startswith(".") or known


def _count(entry: "os.DirEntry[str]") -> int:
    """The number of files that `entry` stands for."""
    if not entry.is_dir(follow_symlinks=False):
        return 1
    return sum(len(files) for _, _, files in os.walk(entry.path))
