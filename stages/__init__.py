"""The stages of the DVC graph: the only code that knows file names."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from abn import params
from abn.errors import UserError
from stages import paths


def run(main: Callable[[params.Params], None]) -> None:
    """Check params.yaml, then call `main`; what a user can mend ends in one line and exit code 1.

    Ctrl-C exits with 130 and SIGTERM with 143, so that DVC never records what is half done.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        main(params.load(paths.PARAMS))
    except UserError as error:
        if os.environ.get("ABN_DEBUG"):
            raise
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
