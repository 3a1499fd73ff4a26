"""What it costs to let the libraries use AVX2 at most, and whether the bytes are others.

    python -m benchmarks.instructions
    qemu-x86_64 -cpu Haswell-v4 python -m benchmarks.instructions --digest   # another processor

Each setting is a process of one thread; they take turns. A step is forward and gradients of a
ResNet-18 ABN on 32 images of 64 px; the digest is that of the gradients of four images.
"""

import hashlib
import os
import statistics
import subprocess
import sys
import time

import torch

from abn.models.abn import AttentionBranchNetwork, losses
from benchmarks import measure

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "avx2": AVX2,
    "avx2_mkl_compatible": AVX2 | {"MKL_CBWR": "COMPATIBLE"},
}
STEPS = 4  # of a turn


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--digest", action="store_true", help="print this process's, and end")
    parser.add_argument("--turns", action="store_true", help="a turn for each line of input")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.digest:
        print(digest())
    elif options.turns:
        turns()
    else:
        measure.save(options.out, "instructions", vars(options), compared(options.rounds))


def compared(rounds: int) -> dict[str, object]:
    """Digests, seconds of a step in each round, and the median of the ratios to the default."""
    command = [sys.executable, "-m", "benchmarks.instructions"]
    digests, running = {}, {}
    for name, setting in SETTINGS.items():
        env = os.environ | {"OMP_WAIT_POLICY": "passive"} | setting
        printed = subprocess.run([*command, "--digest"], env=env, check=True, capture_output=True)
        digests[name] = printed.stdout.decode().strip()
        pipe = subprocess.PIPE
        running[name] = subprocess.Popen(
            [*command, "--turns"], env=env, stdin=pipe, stdout=pipe, encoding="utf-8", bufsize=1
        )
    seconds = [{name: asked(child) for name, child in running.items()} for _ in range(rounds)]
    for child in running.values():
        child.communicate()
    ratios = {
        name: statistics.median(each[name] / each["default"] for each in seconds)
        for name in SETTINGS
    }
    return {"digests": digests, "seconds_a_step": seconds, "times_default": ratios}


def asked(child: "subprocess.Popen[str]") -> float:
    """Seconds of a step in the next turn of `child`."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("\n")
    return float(child.stdout.readline())


def turns() -> None:
    """Seconds of a step, the mean of STEPS, after each line of input; one step warms up."""
    network, images = made(32)
    step(network, images)
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(STEPS):
            step(network, images)
        print((time.perf_counter() - started) / STEPS, flush=True)


def digest() -> str:
    """SHA-256 of the gradients of all weights."""
    network, images = made(4)
    step(network, images)
    whole = hashlib.sha256()
    for weight in network.parameters():
        assert weight.grad is not None
        whole.update(weight.grad.contiguous().numpy().tobytes())
    return whole.hexdigest()[:12]


def made(count: int) -> tuple[AttentionBranchNetwork, torch.Tensor]:
    """A new network of four classes and `count` images, the same each time."""
    torch.manual_seed(0)
    network = AttentionBranchNetwork("resnet18", 4).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(count, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    return network.train(), images


def step(network: AttentionBranchNetwork, images: torch.Tensor) -> None:
    """Forward, and new gradients."""
    network.zero_grad()
    sum(losses(network(images), torch.arange(len(images)) % 4)).backward()  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
