"""The stage runner: params are checked first, one run at a time, errors are one line.

`python -m stages.NAME` calls `begin` when it imports the package `stages`, before torch is
imported, and then `run`.
"""

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType

from abn.config import params as parameters
from abn.config.params import Params
from abn.project import inputs, own_images, paths
from abn.project.inputs import Inputs
from abn.runtime import env, launch, locks, signals
from abn.runtime.errors import DeviceError, DiskError, LostError, UserError

DISK = {  # what the disk, its permissions, or something in the place of a file can cause
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP, errno.ENAMETOOLONG),
}
MEMORY = re.compile(  # the last two: while a library is loaded
    r"out of memory|can(no|')t allocate memory|unable to allocate|failed to map segment", re.I
)
PEERS = re.compile(  # the backend's name, or words of gloo's messages
    r"gloo|nccl|by peer|timed out waiting|pair closure|socket closed|connect timeout", re.I
)

AGAIN = "run the same command again"  # remedy; a training continues where it was

_checked: list[tuple[Params, Inputs]] = []  # by `begin`, for `run`


def begin() -> None:
    """Check params.yaml and note the inputs, before torch is imported."""
    signals.stop_where_nobody_reads()
    if "-m" not in sys.orig_argv:  # `python -mstages.NAME`: `run` does it
        return
    env.ensure_utf8()
    module, *arguments = sys.orig_argv[sys.orig_argv.index("-m") + 1 :]
    stage = module.rpartition(".")[2]
    sys.excepthook = partial(_report_uncaught, stage)
    if arguments:  # --help, or a mistake: `run` says so
        return
    with _errors_reported(stage):
        _checked.append(_load(stage))


def run(main: Callable[[Params, Inputs], None]) -> None:
    """Run `main` as the stage that the script is named after; it takes no arguments.

    Ctrl-C and SIGTERM exit with 130 and 143, so that DVC never records a stage that was stopped.
    """
    stage = Path(sys.argv[0]).stem
    argparse.ArgumentParser(
        prog=f"python -m stages.{stage}",
        description=sys.modules[main.__module__].__doc__,
        epilog="Parameters are in params.yaml; `dvc repro` runs all stages.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    signals.stop_where_nobody_reads()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if "DVC_ROOT" in os.environ or launch.is_worker():
            signals.end_with_parent()
        with _errors_reported(stage):
            params, given = _checked.pop() if _checked else _load(stage)
            one_at_a_time = locks.alone(paths.LOCKS / f"{stage}.lock", f"the stage {stage}")
            lock = nullcontext() if launch.is_worker() else one_at_a_time  # the parent has it
            with _errors_reported(stage, params), lock:
                main(params, given)
    finally:
        # Outputs are written. An exception in the interpreter's shutdown would only be printed.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if launch.is_worker():
        launch.leave()


def _load(stage: str) -> tuple[Params, Inputs]:
    launch.share_cores()
    params = parameters.load(paths.PARAMS)
    if stage == "download" and params.data.name == "folder":
        own_images.link(Path(params.data.root))
    return params, inputs.look(stage, params)


@contextmanager
def _errors_reported(stage: str, params: Params | None = None) -> Iterator[None]:
    """Exit with one line on what a user can fix; `ABN_DEBUG=1` shows the traceback."""
    try:
        yield
    except signals.Stopped as stopped:
        line = "stopped with a checkpoint; the same command continues from there"
        _exit(str(stopped) or line, 143)
    except KeyboardInterrupt:
        _exit("stopped; the same command runs this stage again", 130)
    except Exception as error:
        user_error = as_user_error(error, stage, params)
        if user_error is None or os.environ.get("ABN_DEBUG"):
            raise
        _exit(user_error.line(), user_error.exit_code)


def _report_uncaught(
    stage: str, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Python's excepthook: what a user can fix is one line also while libraries are imported."""
    known = as_user_error(error, stage) if isinstance(error, Exception) else None
    if known is None or os.environ.get("ABN_DEBUG"):
        sys.__excepthook__(kind, error, trace)
    else:
        _exit(known.line(), known.exit_code)


def as_user_error(error: Exception, stage: str, params: Params | None = None) -> UserError | None:
    """`error` as one that a user can act on: disk, memory, a lost peer; None: it is a bug."""
    text = str(error)
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in DISK:
        where = error.filename or "the project's disk"
        return DiskError(str(error.strerror), where, f"make room or check permissions; {AGAIN}")
    if isinstance(error, MemoryError) or MEMORY.search(text):
        batch = getattr(getattr(params, stage, None), "batch_size", None)
        where = f"{stage}.batch_size = {batch}" if batch else f"the stage {stage}"
        remedy = f"try {batch // 2}, or smaller images" if batch else f"free memory; {AGAIN}"
        what = "" if isinstance(error, ImportError) else text.partition(". ")[0].rstrip(".")
        return DeviceError(what or "out of memory", where, remedy)
    if launch.is_worker() and PEERS.search(text):
        what = "another process of this training died or does not answer"
        return LostError(what, f"rank {os.environ['RANK']}", AGAIN)
    return None


def _exit(line: str, code: int) -> None:
    """Print `line`, or hand it to the process that launched this one; exit with `code`."""
    if not launch.report(line):
        print(line, file=sys.stderr)
    sys.exit(code)
