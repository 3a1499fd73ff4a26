"""The train stage as DVC runs it, with a fault at a given step.

    python victim.py send:SIGKILL@7        # in the root of a project

The fault, one of FAULTS or `nan`, happens after that many steps; at 0, before the first. The
stage's own files are not changed, so its fingerprint is that of a normal run.
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
    """Change a value, a line of code or a bit of the data."""
    path = Path(file)
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        path.write_bytes(content.replace(b"  lr: 0.03", b"  lr: 0.04") + b"\n")


def fill_the_disk(name: str) -> None:
    """Every later write of a state or a checkpoint fails."""
    from safetensors import SafetensorError

    from abn.models import checkpoint

    def full(tensors: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        number = getattr(errno, name)
        raise SafetensorError(f"I/O error: {os.strerror(number)} (os error {number}) at path ...")

    checkpoint.save_file = full


def run_out_of_memory(device: str) -> None:
    import torch

    if device == "cuda":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 ...")
    raise MemoryError


FAULTS = {"send": send, "edit": edit, "disk": fill_the_disk, "memory": run_out_of_memory}


def inject(fault: str) -> None:
    """Make `Step` cause `fault`, "NAME:ARGUMENT@STEP"."""
    from abn.training.step import Step

    what, _, at = fault.rpartition("@")
    name, _, argument = what.partition(":")
    count, original, factor = [0], Step.__call__, [1.0]  # of the loss

    def strike() -> None:
        if count[0] == int(at):
            factor[0] = math.nan if name == "nan" else 1.0
            FAULTS.get(name, str)(argument)

    def step(self: Any, batch: Any) -> Any:
        if not count[0]:
            strike()
        result = original(self, batch)
        count[0] += 1
        strike()
        return result * factor[0]

    Step.__call__ = step  # type: ignore[method-assign]


def main() -> None:
    for fault in sys.argv[1:]:
        inject(fault)
    sys.argv = [str(Path("stages", "train.py"))]
    runpy.run_module("stages.train", run_name="__main__")


if __name__ == "__main__":
    main()
