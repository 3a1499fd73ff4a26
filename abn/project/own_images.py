"""Your own images in DVC's temporary copy of the project, where an experiment runs.

Git makes that copy (`dvc exp run --temp`, the queue), and git does not carry images/. So a link to
each image of the project is laid there before DVC looks: it hashes what a link to a file leads to,
watches the same content under the same names, and removes no more than the links at the end.
"""

import os
import subprocess
from pathlib import Path

from abn.project import paths


def link(root: Path) -> None:
    """Link what the folder `root` of the project holds and git does not carry into that of a copy.

    Nothing is done in the project itself, or where the copy already has images that git does not
    carry (`dvc exp run --copy-paths`, `dvc add`), or where `root` is a link that git carries.
    """
    if paths.ROOT.resolve() == Path.cwd() or root.is_symlink() or Path(f"{root}.dvc").exists():
        return
    if _not_carried(Path(), root):
        return
    for name, is_folder in _not_carried(paths.ROOT, root).items():
        if is_folder:
            Path(name).mkdir(parents=True, exist_ok=True)
        elif not os.path.lexists(name):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).symlink_to(paths.ROOT.absolute() / name)


def _not_carried(project: Path, root: Path) -> dict[str, bool]:
    """What lies below `root` in `project` but not in git, by path, and whether it is a folder.

    Folders come only where they are empty. A link to a folder is not followed, as DVC does.
    """
    git = ["git", "--literal-pathspecs", "-C", str(project), "ls-files", "-z", "--", str(root)]
    carried = set(subprocess.run(git, capture_output=True).stdout.split(b"\0"))
    found: dict[str, bool] = {}
    for folder, folders, files in os.walk(project / root):
        place = Path(folder).relative_to(project)
        links = [name for name in folders if Path(folder, name).is_symlink()]
        found |= {str(place / name): False for name in files + links}
        if not (folders or files) and place != root:
            found[str(place)] = True
    return {name: empty for name, empty in found.items() if os.fsencode(name) not in carried}
