"""The stages of the DVC graph: the only code that knows file names."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from abn import params
from abn.errors import DeviceError, DiskError, UserError
from abn.params import Params
from stages import paths

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}


def run(main: Callable[[Params], None]) -> None:
    """Check params.yaml, then call `main`; what a user can mend is one line and an exit code.

    Ctrl-C exits with 130 and SIGTERM with 143, so that DVC never records what is half done.
    `ABN_DEBUG=1` shows the traceback too.
    """
    signal.signal(signal.SIGTERM, _terminate)
    given = None
    try:
        given = params.load(paths.PARAMS)
        main(given)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        told = error if isinstance(error, UserError) else _mendable(error, given)
        if told is None or os.environ.get("ABN_DEBUG"):
            raise
        print(told.line(), file=sys.stderr)
        sys.exit(told.exit_code)


def _mendable(error: Exception, given: Params | None) -> UserError | None:
    """`error` as what the user can do about it: a full or failing disk, too little memory."""
    if isinstance(error, OSError) and error.errno in DISK:
        where = error.filename or "the project's disk"
        return DiskError(str(error.strerror), where, "mend that; the same command goes on")
    if isinstance(error, MemoryError) or "out of memory" in (text := str(error)).lower():
        return _too_large(str(error), given)
    return _too_large(text, given) if "can't allocate memory" in text else None


def _too_large(text: str, given: Params | None) -> DeviceError:
    stage = Path(sys.argv[0]).stem
    batch = getattr(getattr(given, stage, None), "batch_size", None)
    where = f"{stage}.batch_size = {batch}" if batch else f"the stage {stage}"
    remedy = f"try {batch // 2}, or smaller images" if batch else "free memory and run again"
    return DeviceError(text.partition(".")[0] or "out of memory", where, remedy)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
