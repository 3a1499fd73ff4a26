"""What MLflow costs a training: with a store that works, refuses, hangs, or is two seconds late.

    python -m benchmarks.tracking

Steps of a ResNet-18 with a line of metrics every few steps, far more often than an epoch has one,
in processes of their own that take turns; each is compared with the one that tells nothing, within
a round. Then what the training's own calls take, to open a run, to tell of an epoch and to end, and
the processor's time of the sender beside it: to start, and of each second from then on.
"""

import argparse
import itertools
import json
import os
import socket
import statistics
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from benchmarks import measure
from benchmarks.measure import Play, Turn

STORES = ("off", "sqlite", "refused", "hangs", "late")
LATE = 2.0  # seconds
EVERY = 5  # steps between two lines of metrics
EPOCHS = 20  # lines of metrics, one a second
SETTLED = 2.0  # seconds after which what was told has been sent, not counted


def main() -> None:
    parser = measure.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="in a turn")
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    with measure.workspace() as folder:
        options.folder = folder.absolute()
        beside = {store: calls(store, folder) for store in STORES}  # while nothing else is there
        found = {"calls": beside, "steps": steps(options)}
    print(found)
    measure.save(options.out, "tracking", vars(options), found)


def steps(options: argparse.Namespace) -> dict[str, Any]:
    """The time of a step with each store, in parts of that with none."""
    builds = dict(zip(STORES, (off, sqlite, refused, hangs, late), strict=True))
    rounds = []
    with measure.contest(builds, options) as contestants:
        for turns in measure.alternate(contestants, options.rounds, options.steps):
            rounds.append(turns)
            ratios = (
                f"{store} {turns[store].seconds / turns['off'].seconds:.3f}" for store in STORES
            )
            print("times off: " + ", ".join(ratios), flush=True)
    return {store: _compared(rounds, store, options.steps) for store in STORES}


def _compared(rounds: list[dict[str, Turn]], store: str, steps: int) -> dict[str, float]:
    """Medians over the rounds, and the quartiles of the ratio."""
    ratios = [turns[store].seconds / turns["off"].seconds for turns in rounds]
    first, _, third = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "step_ms": round(1e3 * statistics.median(t[store].seconds for t in rounds) / steps, 2),
        "times_off": round(statistics.median(ratios), 3),
        "first_quartile": round(first, 3),
        "third_quartile": round(third, 3),
    }


def calls(store: str, folder: Path) -> dict[str, float]:
    """What the training's own calls take, and the processor that the sender beside it takes."""
    from abn import tracking

    _choose(store, folder.absolute() / f"calls-{store}")
    started, each = time.perf_counter(), []
    with tracking.run(("benchmark", store), store, system_metrics=True) as run:
        opened = time.perf_counter()
        begun, clock = _settled(), time.perf_counter()
        for epoch in range(EPOCHS):
            before = time.perf_counter()
            run.log(_row(epoch), step=epoch)
            each.append(time.perf_counter() - before)
            time.sleep(1)
        share = (_beside() - begun) / (time.perf_counter() - clock)
        ending = time.perf_counter()
    return {
        "open_ms": round(1e3 * (opened - started), 2),
        "log_ms": round(1e3 * statistics.median(each), 3),
        "longest_log_ms": round(1e3 * max(each), 3),
        "end_seconds": round(time.perf_counter() - ending, 2),
        "start_processor_seconds": round(begun, 2),
        "share_of_a_core": round(share, 4),  # at a line of metrics a second
    }


def _settled() -> float:
    """Processor seconds of the sender once it has started and is at rest."""
    before, used = -1.0, 0.0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (used != before or not used):
        before = used
        time.sleep(3)
        used = _beside()
        if not psutil.Process().children():
            break
    return used


def _beside() -> float:
    """Processor seconds of what runs beside this process."""
    times = [child.cpu_times() for child in psutil.Process().children()]
    return sum(each.user + each.system for each in times)


def _row(epoch: int) -> dict[str, float]:
    """As many numbers as an epoch has."""
    return {f"metric_{number}": epoch / (number + 1) for number in range(15)}


def off(options: argparse.Namespace) -> Play:
    return _training("off", options)


def sqlite(options: argparse.Namespace) -> Play:
    return _training("sqlite", options)


def refused(options: argparse.Namespace) -> Play:
    return _training("refused", options)


def hangs(options: argparse.Namespace) -> Play:
    return _training("hangs", options)


def late(options: argparse.Namespace) -> Play:
    return _training("late", options)


def _training(store: str, options: argparse.Namespace) -> Play:
    """Steps on one batch of noise, and what they tell."""
    import torch

    from abn import tracking
    from abn.data.loader import Batch
    from abn.data.packed import Split
    from benchmarks import ours

    size, count = options.size, options.batch
    labels = torch.arange(count) % 10
    canvases = torch.zeros(count, size, size, 3, dtype=torch.uint8)
    split = Split(canvases, labels, torch.ones(count), None, tuple("abcdefghij"), "noise", "")
    step = ours.step("resnet18", split, measure.recipe("imagenette-cpu").train)
    images = torch.rand(count, 3, size, size).to(step.device, memory_format=torch.channels_last)
    batch = Batch(images, torch.eye(10)[labels].to(step.device))

    _choose(store, options.folder / store)
    opened = tracking.run(("benchmark", store), store, system_metrics=True)
    run, taken = opened.__enter__(), itertools.count()
    _kept.append(opened)  # until the process ends

    def learn(batch: Batch) -> None:
        step(batch)
        if (number := next(taken)) % EVERY == 0:
            run.log(_row(number), step=number)

    def play(steps: int) -> Turn:
        turn = measure.timed(steps, itertools.repeat(batch), count, learn)
        time.sleep(SETTLED)
        return turn

    play(EVERY)
    time.sleep(5)  # MLflow is imported by now
    return play


def _choose(store: str, root: Path) -> None:
    """Have this process tell its runs to `store`, in `root`."""
    root.mkdir()
    os.environ |= {"DVC_ROOT": str(root), "ABN_TRACKING": "off" if store == "off" else "on"}
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if store in ("refused", "hangs"):
        closed = socket.create_server(("127.0.0.1", 0))
        os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{closed.getsockname()[1]}"
        if store == "refused":
            closed.close()
        else:
            _kept.append(closed)
    elif store == "late":
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Late)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{server.server_port}"


_kept: list[object] = []  # what must stay open


class _Late(BaseHTTPRequestHandler):
    """As much of MLflow's server as a run needs, which takes its time."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(LATE)
        body = json.dumps(_said(self.path)).encode()
        with suppress(BrokenPipeError):  # nobody waits any more
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *words: object) -> None:
        """Nothing."""


def _said(path: str) -> dict[str, Any]:
    info = {"run_id": "0" * 32, "experiment_id": "1", "status": "RUNNING", "start_time": 0}
    if "experiments/get-by-name" in path:
        return {"experiment": {"experiment_id": "1", "name": "", "lifecycle_stage": "active"}}
    if "runs/create" in path:
        return {"run": {"info": info, "data": {}}}
    return {"run_info": info} if "runs/update" in path else {}


if __name__ == "__main__":
    main()
