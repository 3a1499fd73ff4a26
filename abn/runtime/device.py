"""The device to compute on, deterministic settings, and the CPU's memory allocator."""

import atexit
import ctypes
import functools
import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from filelock import BaseFileLock, Timeout
from torch.utils import deterministic

from abn.runtime import launch, locks
from abn.runtime.errors import DeviceError

REMEDY = "use cpu, cuda or cuda:N"
# glibc's mallopt options: keep freed memory for the next step, because new pages cost page faults.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4


def choose(number: int = 0) -> torch.device:
    """The device of ABN_DEVICE (cpu, cuda, cuda:1), else a GPU if there is one; deterministic.

    `number` chooses among several GPUs where the name does not; a stage that DVC runs takes one
    that no other experiment has. DeviceError where it is missing.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    name = os.environ.get("ABN_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):  # torch knows others, which nobody has tried
        raise DeviceError("no such device", f"ABN_DEVICE={name}", REMEDY)
    if name == "cuda" and "DVC_ROOT" in os.environ and not launch.is_worker():
        number = _leased(torch.cuda.device_count())
    name = f"{name}:{number}" if name == "cuda" and number else name
    device = open_device(name, f"ABN_DEVICE={name}")
    # Like use_deterministic_algorithms(True), which also imports the compiler, for 1 to 2 seconds.
    torch.set_deterministic_debug_mode("error")
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # none is read
    if device.type == "cpu":
        keep_memory()
    if device.index:  # graphs are captured, and Triton's kernels started, on the current device
        torch.cuda.set_device(device)
    return device


@functools.cache  # one for each process
def _leased(count: int) -> int:
    """Which of `count` GPUs is this process's, until it ends.

    Each takes the first lock file that is free, of those in the main project. With more processes
    than GPUs, the next begin at the first GPU again.
    """
    if count < 2:
        return 0
    folder = Path(os.environ["DVC_ROOT"], ".cache", "locks")
    folder.mkdir(parents=True, exist_ok=True)
    place = 0
    while True:
        path = folder / f"gpu-{place}.lock"
        with suppress(Timeout):
            atexit.register(_give_back, path, locks.acquire(path, timeout=0))
            return place % count
        place += 1


def _give_back(path: Path, lock: BaseFileLock) -> None:
    path.unlink(missing_ok=True)
    lock.release()


def open_device(name: str | torch.device, where: str) -> torch.device:
    """The device `name`; DeviceError that names `where` if torch cannot use it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        reason = "no such device" if "Expected one of" in reason else reason  # and a list of many
        raise DeviceError(reason, where, REMEDY) from None
    return device


def keep_memory() -> None:
    """On Linux, keep freed memory for the next step, in huge pages if the system has them.

    Without it page faults take a fifth of a training step on the CPU.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first allocation
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(TOP_PAD, 2**28)


def kind(device: torch.device) -> str:
    """What kind of processor it is, in words: bits are equal on one kind only, and see `exact`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def exact(device: torch.device, processes: int = 1) -> str:
    """`kind`, the threads of a CPU and the number of processes: on these the bits depend too.

    Two threads sum in another order than one.
    """
    words = [kind(device)]
    if device.type == "cpu":
        threads = torch.get_num_threads()
        words.append(f"{threads} thread{'s' if threads > 1 else ''}")
    if processes > 1:
        words.append(f"{processes} processes")
    return ", ".join(words)


def identity(device: torch.device) -> list[str]:
    """All of this machine and its libraries that the bits of a result depend on."""
    versions = [platform.python_version(), np.__version__, torch.__version__]
    cuda = [str(torch.version.cuda), str(torch.backends.cudnn.version())]
    cpu = [torch.backends.cpu.get_cpu_capability(), os.environ.get("ONEDNN_MAX_CPU_ISA", "")]
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} threads"
    return [name, *versions, *cuda, *cpu, platform.machine()]
