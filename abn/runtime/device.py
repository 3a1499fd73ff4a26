"""Where to compute, how to keep the memory, and so that the same inputs give the same bits."""

import ctypes
import os
import platform
import sys

import numpy as np
import torch
from torch.utils import deterministic

from abn.runtime.errors import DeviceError

# glibc's mallopt: what is freed is kept for the next step, because fresh pages cost a fault each.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4


def choose(number: int = 0) -> torch.device:
    """The device named by ABN_DEVICE (cpu, cuda, cuda:1), else the best there is; deterministic.

    Of several GPUs without a name it is the one with `number`.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    name = os.environ.get("ABN_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    name = f"{name}:{number}" if name == "cuda" and number else name
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise DeviceError(reason, f"ABN_DEVICE={name}", "use cpu, cuda or cuda:N") from None
    # As use_deterministic_algorithms(True), which would also import the compiler: a second or two.
    torch.set_deterministic_debug_mode("error")
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # none is read
    if device.type == "cpu":
        keep_memory()
    return device


def keep_memory() -> None:
    """On Linux, keep freed memory for the next step, in huge pages where the system offers them.

    Without it a fifth of a training step on the CPU is spent on page faults.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first allocation
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(TOP_PAD, 2**28)


def describe(device: torch.device) -> str:
    """The device in words, for a line on the console and for tracking."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"


def identity(device: torch.device) -> list[str]:
    """All about this machine and its libraries that the bits of a result depend on."""
    versions = [platform.python_version(), np.__version__, torch.__version__]
    cuda = [str(torch.version.cuda), str(torch.backends.cudnn.version())]
    cpu = [torch.backends.cpu.get_cpu_capability(), os.environ.get("ONEDNN_MAX_CPU_ISA", "")]
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} threads"
    return [name, *versions, *cuda, *cpu, platform.machine()]
