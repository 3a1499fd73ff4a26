"""A stage as DVC runs it, in which something goes wrong at a given moment.

    python _victim.py train kill@7        # in the root of a project

What can go wrong is in FAULTS, and happens once the optimizer has done so many steps, or, at 0,
before the first. The stage's own files stay as they are: to them this is the same training.
"""

import errno
import math
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path.cwd()))


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


def edit(file: str) -> None:
    """Another value, another line of code, another bit of the data."""
    path = Path(file)
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        path.write_bytes(content.replace(b"  lr: 0.03", b"  lr: 0.04") + b"\n")


def fill_the_disk(name: str) -> None:
    """Every write of a checkpoint, or of an output, fails from now on."""
    from safetensors import SafetensorError

    from abn.models import checkpoint

    def full(tensors: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        number = getattr(errno, name)
        raise SafetensorError(f"I/O error: {os.strerror(number)} (os error {number}) at path ...")

    checkpoint.save_file = full


def run_out_of_memory(what: str) -> None:
    import torch

    if what == "cuda":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 ...")
    raise MemoryError


FAULTS = {"send": send, "edit": edit, "disk": fill_the_disk, "memory": run_out_of_memory}


def main() -> None:
    stage, *faults = sys.argv[1:]
    due = [fault.rpartition("@") for fault in faults]
    if any(due):
        from abn.training.step import Step

        count, whole = [0], Step.__call__
        lost = [1.0]  # what the loss is multiplied by

        def strike() -> None:
            for fault, _, at in due:
                if int(at) == count[0]:
                    name, _, argument = fault.partition(":")
                    lost[0] = math.nan if name == "nan" else lost[0]
                    FAULTS.get(name, str)(argument)

        def step(self: Any, batch: Any) -> Any:
            if not count[0]:
                strike()
            result = whole(self, batch)
            count[0] += 1
            strike()
            return result * lost[0]

        Step.__call__ = step  # type: ignore[method-assign]
    sys.argv = [str(Path("stages", f"{stage}.py"))]
    runpy.run_module(f"stages.{stage}", run_name="__main__")


if __name__ == "__main__":
    main()
