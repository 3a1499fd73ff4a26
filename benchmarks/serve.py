"""`abn serve` under load: how long an answer takes, and whether memory stays flat.

    python -m benchmarks.serve --checkpoint checkpoint/model.safetensors --image photo.jpg

A server is started in a process of its own; 1, 8 and 32 clients, threads of this process, ask it on
loopback for some seconds each, every client again as soon as it is answered.
"""

import http.client
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from benchmarks import measure

CLIENTS = (1, 8, 32)
TYPE = {"Content-Type": "application/octet-stream"}


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--shared", action="store_true", help="other work ran on the machine")
    options = parser.parse_args()
    found = run(options.checkpoint, options.image.read_bytes(), options.seconds)
    about = {"seconds": options.seconds, "image_bytes": options.image.stat().st_size}
    measure.save(options.out, "serve", about | {"machine_shared": options.shared}, found)


def run(checkpoint: Path, image: bytes, seconds: float) -> dict[str, Any]:
    """Start the server, load it and stop it."""
    command = [sys.executable, "-m", "abn", "serve", "--checkpoint", str(checkpoint), "--port", "0"]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split("/")[2]
            ask(http.client.HTTPConnection(address, timeout=60), image)
            first = time.monotonic() - began
            process = psutil.Process(server.pid)
            load(address, image, max(CLIENTS), seconds / 2)  # until allocators have what they keep
            found = {"seconds_to_first_answer": round(first, 2)}
            loads = {}
            for clients in CLIENTS:
                before = used(process)
                result = load(address, image, clients, seconds)
                loads[str(clients)] = result | cost(before, used(process), result["answers"])
            return found | {"clients": loads}
        finally:
            server.send_signal(signal.SIGTERM)


class Used(NamedTuple):
    """What a process has and has had of the machine."""

    bytes: int
    cpu_seconds: float


def used(process: psutil.Process) -> Used:
    """Its memory, and its time so far."""
    times = process.cpu_times()
    return Used(process.memory_info().rss, times.user + times.system)


def cost(before: Used, after: Used, answers: int) -> dict[str, float]:
    """The server's memory around a load, and its CPU time an answer, which other work leaves."""
    each = 1000 * (after.cpu_seconds - before.cpu_seconds) / max(1, answers)
    memory = {"memory_before_mb": before.bytes // 10**6, "memory_after_mb": after.bytes // 10**6}
    return memory | {"cpu_ms_per_answer": round(each, 1)}


def load(address: str, image: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Answers a second, percentiles in milliseconds, and how many requests had no answer."""
    end, times, lost = time.monotonic() + seconds, [], []

    def client() -> None:
        connection = http.client.HTTPConnection(address, timeout=60)
        while time.monotonic() < end:
            began = time.monotonic()
            status = ask(connection, image)
            (times if status == 200 else lost).append(time.monotonic() - began)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p95, p99 = (round(1000 * float(p), 1) for p in np.percentile(times, (50, 95, 99)))
    rate = {"answers": len(times), "per_second": round(len(times) / seconds, 1), "lost": len(lost)}
    return rate | {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def ask(connection: http.client.HTTPConnection, image: bytes) -> int:
    """The status of an answer that was read to its end; 0 where there is none."""
    try:
        connection.request("POST", "/predict", image, TYPE)
        reply = connection.getresponse()
        reply.read()
        return reply.status
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0


if __name__ == "__main__":
    main()
