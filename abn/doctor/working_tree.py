"""What killed processes leave in the working tree: files cut off, locks nobody holds, parts."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from abn.doctor import processes
from abn.experiments import git
from abn.project import paths

DVC, LOCK = Path(".dvc/tmp"), Path("dvc.lock")
MADE = ("data", "checkpoint", "checkpoint.part", "metrics", "plots", "outputs")
PART = re.compile(r".*\.part|\.tmp\w{6}|.*\.[\w-]{22}\.tmp")  # ours, safetensors', DVC's


class Finding(NamedTuple):
    """Something amiss and the command that mends it; unless `safe`, a person should decide."""

    what: str
    where: object
    command: list[str]
    safe: bool = True


def dvc_lock() -> Iterator[Finding]:
    """dvc.lock cut off: DVC writes it in place, after every stage."""
    if not LOCK.exists() or is_whole(LOCK.read_bytes()):
        return
    if git.output("ls-files", "--unmerged", str(LOCK)):
        command = ["git", "checkout", "--ours", str(LOCK)]
        yield Finding("two versions are being merged", LOCK, command, safe=False)
        return
    what = "not whole; the run cache still knows what was done since the version in git"
    for version in ([], ["HEAD"]):  # what DVC has staged, what is committed
        content = git.output("show", f"{''.join(version)}:./{LOCK}")
        if content is not None and is_whole(content.encode()):
            yield Finding(what, LOCK, ["git", "checkout", *version, "--", str(LOCK)])
            return
    yield Finding("not whole, nor is a version in git", LOCK, ["rm", str(LOCK)], safe=False)


def tables() -> Iterator[Finding]:
    """DVC's tables of who reads and writes what: cut off, or with processes that are gone."""
    idle = not processes.at_work_aside(Path.cwd())
    for table in (DVC / "rwlock", *([processes.TEMPORARY / "rwlock"] if idle else [])):
        if not table.exists():
            continue
        holders = _holders(table.read_bytes())
        if holders is None:
            yield Finding("not whole", table, ["rm", str(table)])
        elif holders and not any(processes.is_ours(holder) for holder in holders):
            yield Finding("names processes that are gone", table, ["rm", str(table)])


def git_locks() -> Iterator[Finding]:
    """Locks of a git that died: no process in this tree is git now."""
    folder = Path((git.output("rev-parse", "--git-dir") or ".git").strip())
    for lock in sorted([*folder.glob("*.lock"), *folder.glob("refs/**/*.lock")]):
        yield Finding("of a git that is gone", lock, ["rm", str(lock)])


def stage_locks() -> Iterator[Finding]:
    """The lock files of stages that died; the lock itself went with them."""
    for lock in sorted(paths.LOCKS.glob("*.lock")):
        if _is_free(lock):
            yield Finding("of a stage that is gone", lock, ["rm", str(lock)])


def parts() -> Iterator[Finding]:
    """Files that were being written; a download's part is not among them, that one goes on."""
    folders = [path for name in MADE if (path := Path(name)).exists()]
    if not processes.at_work_aside(Path.cwd()):
        folders += [Path(".dvc/cache")]
    for folder in folders:
        for path in sorted([folder, *folder.rglob("*")]):
            if PART.fullmatch(path.name):
                yield Finding("was being written", path, ["rm", "-r", str(path)])


def unfinished() -> Iterator[str]:
    """A line on every training that can go on."""
    for folder in sorted(paths.RESUME.glob("*/")):
        if (folder / paths.DONE).exists():
            continue
        files = list(folder.iterdir())
        size = sum(file.stat().st_size for file in files) / 1e6
        names = " ".join(file.name for file in files)
        steps = sorted(re.findall(r"state-(\d+)-(\d+)\.safetensors", names))
        place = "epoch {}, step {}".format(*map(int, steps[-1])) if steps else "no step yet"
        days = (time.time() - folder.stat().st_mtime) / 86400
        yield (
            f"{folder}: a training that can go on by the same command, after {place}; "
            f"{size:.0f} MB, {days:.0f} days old; to drop it: rm -r {folder}"
        )


def is_whole(content: bytes) -> bool:
    """Whether a dvc.lock ends where DVC ended it: what is cut off can be valid YAML too."""
    try:
        described = YAML(typ="safe", pure=True).load(content)
        stages = described["stages"].values()
        return content.endswith(b"\n") and all(_is_recorded(stage) for stage in stages)
    except (YAMLError, UnicodeDecodeError, TypeError, AttributeError, KeyError):
        return False


def _is_recorded(stage: dict[str, Any]) -> bool:
    params = stage.get("params", {}).values()
    files = [*stage.get("deps", []), *stage.get("outs", [])]
    return bool(stage["cmd"]) and None not in params and all(map(_is_complete, files))


def _is_complete(file: dict[str, Any]) -> bool:
    if "hash" not in file or "files" in file:
        return bool(file["path"])
    return file["size"] is not None and (not file["md5"].endswith(".dir") or "nfiles" in file)


def _holders(content: bytes) -> list[int] | None:
    """The processes that a table names; None where it is none."""
    with suppress(ValueError, TypeError, AttributeError, KeyError):
        table = json.loads(content)
        writers = list(table.get("write", {}).values())
        readers = [entry for entries in table.get("read", {}).values() for entry in entries]
        return [int(entry["pid"]) for entry in writers + readers]
    return None


def _is_free(lock: Path) -> bool:
    with suppress(Timeout), FileLock(lock, timeout=0):
        return True
    return False
