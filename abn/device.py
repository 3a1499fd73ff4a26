"""Where to compute, and so that the same inputs give the same bits."""

import os

import torch

from abn.errors import UserError


def choose() -> torch.device:
    """The device named by ABN_DEVICE (cpu, cuda, cuda:1), else the best there is; deterministic."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    name = os.environ.get("ABN_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise UserError(f"ABN_DEVICE={name}: {reason}; use cpu, cuda or cuda:N") from None
    torch.use_deterministic_algorithms(True)
    return device


def describe(device: torch.device) -> str:
    """The device in words, for a line on the console and for tracking."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"
