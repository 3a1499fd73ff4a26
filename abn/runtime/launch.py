"""Several processes that train together on this machine, by torchrun's engine.

This process starts them, waits, and speaks for them: of all that went wrong it tells the first
cause. On several machines torchrun itself starts the same module.
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
    """How many processes ABN_PROCESSES asks this one to start; 1: none but itself."""
    return 1 if is_worker() else int(env.number("ABN_PROCESSES", 1, least=1))


def report(line: str) -> bool:
    """Leave `line` to whoever started this process; whether that will print it."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        told = {"message": line, "timestamp": int(time.time())}
        Path(file).write_text(json.dumps(told))
    return is_worker() and "ABN_LAUNCHED" in os.environ


def leave() -> None:
    """End this worker now: while its interpreter goes down, torch's threads may abort it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class Told(UserError):
    """What a process has said before it ended."""

    def __init__(self, line: str, exit_code: int) -> None:
        super().__init__(line, "", "")
        self._line, self.exit_code = line, exit_code

    def line(self) -> str:
        return self._line


def run(module: str, processes: int) -> None:
    """Run `python -m module` in `processes` processes; raises what the first that failed said.

    Raises Stopped once they have stopped because this process was asked to.
    """
    threads = max((os.cpu_count() or 1) // processes, 1)
    os.environ |= {"OMP_NUM_THREADS": str(threads)} | os.environ | {"ABN_LAUNCHED": "1"}
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it would say all twice
    with tempfile.TemporaryDirectory() as reports:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="abn",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=reports),
        )
        try:
            elastic_launch(config, sys.executable)("-m", module)
        except ChildFailedError as error:
            raise _first_cause(error.failures) from None
        except SignalException:
            words = "stopped; the same command goes on from the last checkpoint"
            raise Stopped(words) from None


def _first_cause(failures: Mapping[int, Any]) -> UserError:
    """What the first to fail said, before what those said that lost it."""
    said = {rank: f for rank, f in failures.items() if f.message.startswith("error[")}
    lost = [rank for rank, f in said.items() if f.message.startswith("error[LOST]")]
    rank = next((r for r in [*said, *failures] if r not in lost), next(iter(failures)))
    failure = failures[rank]
    if rank in said or failure.exitcode == 143:
        return Told(failure.message, failure.exitcode)
    how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    return LostError(f"a process ended with {how}", f"rank {rank}", "the same command goes on")
