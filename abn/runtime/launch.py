"""Starts several training processes on this machine, with torchrun's engine.

torchrun itself would print a page of traceback where a process fails. This module prints one line:
the first cause. On several machines torchrun starts the same stage.
"""

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abn.runtime import env
from abn.runtime.errors import LostError, UserError
from abn.runtime.signals import Stopped


def is_worker() -> bool:
    """Whether torchrun's engine started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def processes() -> int:
    """How many processes to start, from ABN_PROCESSES; 1: none, this one does the work."""
    return 1 if is_worker() else int(env.number("ABN_PROCESSES", 1, least=1))


def share_cores() -> None:
    """Take this process's part of the cores; call it before torch is imported.

    ABN_JOBS=N says that N experiments run side by side (`ABN_JOBS=2 dvc queue start --jobs 2`):
    each gets cores / N threads, unless OMP_NUM_THREADS says how many. It is given, not counted,
    because the bits of a result depend on it. In DVC's queue a thread that waits sleeps: two
    trainings whose threads spin at every barrier slow each other to a tenth.
    """
    jobs = int(env.number("ABN_JOBS", 1, least=1))
    if jobs > 1 and not is_worker():
        threads = max((os.cpu_count() or 1) // (jobs * processes()), 1)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if jobs > 1 or Path.cwd().parent.parts[-3:] == (".dvc", "tmp", "exps"):
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def report(line: str) -> bool:
    """Hand `line` to the process that started this worker; False: print it here."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        content = {"message": line, "timestamp": int(time.time())}
        Path(file).write_text(json.dumps(content), encoding="utf-8")
    return is_worker() and "ABN_LAUNCHED" in os.environ


def leave() -> None:
    """End this worker now: torch's threads may abort it while the interpreter shuts down."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class WorkerError(UserError):
    """The error of a worker, with its line and its exit code."""

    def __init__(self, line: str, exit_code: int) -> None:
        super().__init__(line, "", "")
        self._line, self.exit_code = line, exit_code

    def line(self) -> str:
        return self._line


def run(module: str, processes: int) -> None:
    """Run `python -m module` in `processes` processes; raises the error of the first that failed.

    Raises Stopped when this process was asked to stop and the workers have ended.
    """
    threads = max((os.cpu_count() or 1) // processes, 1)
    os.environ |= {"OMP_NUM_THREADS": str(threads)} | os.environ | {"ABN_LAUNCHED": "1"}
    # Imported here: after OMP_NUM_THREADS is set, and only where it is needed.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it repeats every error
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="abn",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)("-m", module)
        except ChildFailedError as error:
            raise _first_cause(error.failures) from None
        except SignalException:
            line = "stopped; the same command continues from the last saved state"
            raise Stopped(line) from None


def _first_cause(failures: Mapping[int, Any]) -> UserError:
    """Of failures by rank the cause: an error line, else a dead process, else a lost peer."""

    def order(rank: int) -> tuple[bool, bool]:
        message = failures[rank].message
        return message.startswith("error[LOST]"), not message.startswith("error[")

    rank = min(failures, key=order)
    failure = failures[rank]
    if failure.message.startswith("error[") or failure.exitcode == 143:
        return WorkerError(failure.message, failure.exitcode)
    how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    return LostError(f"a process ended with {how}", f"rank {rank}", "run the same command again")
