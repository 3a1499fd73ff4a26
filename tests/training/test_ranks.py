"""Trainings in several processes, on one machine and on two: killed, frozen, cut off."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
]

CONFIG: dict[str, Any] = {
    "epochs": 6,
    "mixup": 0.2,
    "cutmix": 1.0,
    "mix_share": 0.5,
    "mix_until": 1.0,
    "ema": 0.9,
    "select": "best",
}  # 24 steps
POINTS = (1, 4, 5, 11, 18, 23)  # also the first step, the last, and an epoch's end


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Any]:
    """`expected(processes)`: what that many processes learn without a fault."""
    results: dict[int, Any] = {}

    def result(processes: int) -> Any:
        if processes not in results:
            folder = tmp_path_factory.mktemp(f"expected-{processes}")
            done = ranks.train(folder, processes, **CONFIG)
            assert done.returncode == 0, done.stderr
            results[processes] = ranks.result(folder)
        return results[processes]

    return result


def assert_same(folder: Path, expected: Any) -> None:
    (history, weights), (resumed_history, resumed) = expected, ranks.result(folder)
    assert resumed_history == history
    assert all(tensor.equal(resumed[name]) for name, tensor in weights.items())


def recover(folder: Path, processes: int, expected: Any, message: str = "RESUMED") -> None:
    """Assert that the same command ends with the same bits."""
    again = ranks.train(folder, processes, **CONFIG)
    assert again.returncode == 0 and message in again.stderr, again.stderr
    assert_same(folder, expected)


def assert_one_line(done: subprocess.CompletedProcess[str], start: str, code: int) -> None:
    """Assert that the launcher, and no rank, printed one line."""
    ordinary = ("epoch ", "FRESH")
    lines = [line for line in done.stderr.splitlines() if not line.startswith(ordinary)]
    assert done.returncode == code and len(lines) == 1 and lines[0].startswith(start), done.stderr


@pytest.mark.parametrize("processes", [2, 3])
def test_kill_9_of_one_rank(processes: int, expected: Any, tmp_path: Path) -> None:
    for number, step in enumerate(POINTS):
        rank, folder = number % processes, tmp_path / str(step)
        folder.mkdir()
        done = ranks.train(folder, processes, f"{rank} SIGKILL {step}", **CONFIG)
        assert_one_line(done, f"error[LOST] a process ended with SIGKILL; rank {rank};", 7)
        recover(folder, processes, expected(processes), "FRESH" if step == 1 else "RESUMED")


def test_an_error_on_one_rank_is_the_line_and_the_exit_code(expected: Any, tmp_path: Path) -> None:
    done = ranks.train(tmp_path, 3, "2 error 9", **CONFIG)
    assert_one_line(done, "error[DISK] the disk is gone; rank 2;", 5)
    recover(tmp_path, 3, expected(3))


def test_a_frozen_rank_ends_the_training(
    expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected(2)  # with the default timeout
    monkeypatch.setenv("ABN_TIMEOUT", "5")
    done = ranks.train(tmp_path, 2, "1 SIGSTOP 9", **CONFIG)
    assert_one_line(done, "error[LOST] ", 7)  # from the rank that waited, or of the frozen one
    monkeypatch.delenv("ABN_TIMEOUT")
    recover(tmp_path, 2, expected(2))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_rank_outlives_the_launcher(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ranks", "2"],
        cwd=ranks.ROOT,
        env=ranks.environment(tmp_path, "", CONFIG | {"epochs": 10_000}),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    with process:
        while not list(tmp_path.glob("resume/state-*.safetensors")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        process.wait()
        deadline = time.monotonic() + 60
        while alive := processes_of(tmp_path):
            assert time.monotonic() < deadline, f"still running: {alive}"
            time.sleep(0.05)
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert lines[-1].startswith("stopped; the same command continues from"), lines
    else:
        assert process.returncode == -signal.SIGKILL


def processes_of(folder: Path) -> list[int]:
    """Those that have `folder` in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


class Hosts:
    """Two hosts in network namespaces of their own, with a cable between them."""

    NAMES = "abn-a", "abn-b"
    ADDRESSES = "10.77.0.1", "10.77.0.2"

    def train(self, folder: Path, fault: str = "", timeout: float = 20) -> list[tuple[int, str]]:
        """One rank on each; exit code and stderr of both."""
        environment = ranks.environment(folder, fault, CONFIG)
        environment |= {"GLOO_SOCKET_IFNAME": "cable", "ABN_TIMEOUT": str(timeout)}
        started = []
        for rank, name in enumerate(self.NAMES):
            command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"]
            command += ["--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1"]
            command += [f"--master-addr={self.ADDRESSES[0]}", "--master-port=29500"]
            command += ["-m", "tests.ranks"]
            pipe = subprocess.PIPE
            started.append(
                subprocess.Popen(command, cwd=ranks.ROOT, env=environment, stderr=pipe, text=True)
            )
        errors = [process.communicate(timeout=300)[1] for process in started]
        return [(process.returncode, text) for process, text in zip(started, errors, strict=True)]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if not shutil.which("ip"):
        pytest.skip("no ip(8) to make hosts with")
    first, second = Hosts.NAMES
    try:
        for name in Hosts.NAMES:
            ip("netns", "add", name)
        far = ("peer", "name", "cable", "netns", second)
        ip("-n", first, "link", "add", "cable", "type", "veth", *far)
        for name, address in zip(Hosts.NAMES, Hosts.ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "cable", "up")
        yield Hosts()
    finally:
        for name in Hosts.NAMES:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no network namespaces: {done.stderr.strip()}")


@pytest.mark.parametrize(("fault", "timeout"), [("1 SIGKILL 9", 20), ("1 unplugged 9", 5)])
def test_both_hosts_end_where_one_is_killed_or_cut_off(
    hosts: Hosts, expected: Any, tmp_path: Path, fault: str, timeout: float
) -> None:
    ended = hosts.train(tmp_path, fault, timeout)
    assert all(code for code, _ in ended), ended
    ip("-n", hosts.NAMES[1], "link", "set", "cable", "up")
    (code, text), (other, _) = hosts.train(tmp_path)
    assert (code, other) == (0, 0) and "RESUMED" in text, text
    assert_same(tmp_path, expected(2))
