"""Runs a stage: params checked, one at a time, faults as one line and an exit code."""

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType

from abn.config import params as parameters
from abn.config.params import Params
from abn.project import inputs, paths
from abn.project.inputs import Inputs
from abn.runtime import launch, locks, signals
from abn.runtime.errors import DeviceError, DiskError, LostError, UserError

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}
MEMORY = re.compile(r"out of memory|can't allocate memory", re.I)
PEERS = re.compile(  # where a backend names itself, else gloo's words
    r"gloo|nccl|by peer|timed out waiting|pair closure|socket closed|connect timeout", re.I
)


_begun: list[tuple[Params, Inputs]] = []  # by `begin`, for `run`


def begin() -> None:
    """Check params.yaml and note the inputs, before a stage's imports take seconds (torch)."""
    with _faults(_name(sys.orig_argv)):
        _begun.append(_start(_name(sys.orig_argv)))


def run(main: Callable[[Params, Inputs], None]) -> None:
    """Call `main` as the stage of the script that runs; its command line has no options.

    Ctrl-C and signals exit with 130 or 143, so that DVC never records what is half done.
    """
    description = sys.modules[main.__module__].__doc__
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    stage = Path(sys.argv[0]).stem
    signal.signal(signal.SIGTERM, _terminate)
    if "DVC_ROOT" in os.environ or launch.is_worker():
        signals.end_with_parent()
    with _faults(stage):
        params, given = _begun.pop() if _begun else _start(stage)
        with _faults(stage, params), _alone(stage):
            main(params, given)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # all is written; the interpreter goes down
        if launch.is_worker():
            launch.leave()


def _name(command: list[str]) -> str:
    """The stage that `python -m stages.NAME` runs."""
    return command[command.index("-m") + 1].rpartition(".")[2]


def _start(stage: str) -> tuple[Params, Inputs]:
    given = parameters.load(paths.PARAMS)
    return given, inputs.look(stage, given)


@contextmanager
def _faults(stage: str, given: Params | None = None) -> Iterator[None]:
    """What a user can mend is one line and an exit code; `ABN_DEBUG=1` shows the traceback."""
    try:
        yield
    except signals.Stopped as stopped:
        _end(str(stopped) or "stopped with a checkpoint; the same command goes on from there", 143)
    except KeyboardInterrupt:
        _end("stopped; the same command runs this stage again", 130)
    except Exception as error:
        told = error if isinstance(error, UserError) else _mendable(error, stage, given)
        if told is None or os.environ.get("ABN_DEBUG"):
            raise
        _end(told.line(), told.exit_code)


def _alone(stage: str) -> AbstractContextManager[None]:
    """One process of a stage at a time writes into a working tree; workers come under its lock."""
    if launch.is_worker():
        return nullcontext()
    return locks.alone(paths.LOCKS / f"{stage}.lock", f"the stage {stage}")


def _mendable(error: Exception, stage: str, given: Params | None) -> UserError | None:
    """`error` as what the user can do about it: a failing disk, too little memory, a lost peer."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in DISK:
        where = error.filename or "the project's disk"
        return DiskError(str(error.strerror), where, "mend that; the same command goes on")
    if isinstance(error, MemoryError) or MEMORY.search(text):
        batch = getattr(getattr(given, stage, None), "batch_size", None)
        where = f"{stage}.batch_size = {batch}" if batch else f"the stage {stage}"
        remedy = f"try {batch // 2}, or smaller images" if batch else "free some, run again"
        return DeviceError(text.partition(".")[0] or "out of memory", where, remedy)
    if launch.is_worker() and PEERS.search(text):
        what = "another process of this training is gone or does not answer"
        return LostError(what, f"rank {os.environ['RANK']}", "the same command goes on")
    return None


def _end(line: str, code: int) -> None:
    """Say `line`, or leave it to the process that started this one; exit with `code`."""
    if not launch.report(line):
        print(line, file=sys.stderr)
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
