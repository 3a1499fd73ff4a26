"""The device of ABN_DEVICE or an error of one line; deterministic torch; freed memory is kept."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import deterministic

from abn.runtime import device, locks
from abn.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
BEFORE_AND_AFTER = """
import resource, torch
from abn.runtime import device

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(faults() for _ in range(3)))
device.keep_memory()
print([faults() for _ in range(40)][-1])  # what is freed has to find its place first
"""


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    """The calls of keep_memory, which is replaced: it cannot be undone."""
    times = []
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    was_filled = deterministic.fill_uninitialized_memory
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # choose() may set it for good
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    monkeypatch.setattr(device, "keep_memory", lambda: times.append(1))
    yield times
    torch.use_deterministic_algorithms(was_deterministic)
    deterministic.fill_uninitialized_memory = was_filled


@pytest.mark.parametrize("unnamed", [None, ""])
def test_without_a_name_a_gpu_is_used_if_there_is_one(monkeypatch, unnamed):
    monkeypatch.delenv("ABN_DEVICE", raising=False)
    if unnamed is not None:
        monkeypatch.setenv("ABN_DEVICE", unnamed)
    assert device.choose().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_training_is_known_by_its_threads_and_processes(monkeypatch):
    cpu = torch.device("cpu")
    for threads, processes, words in [(1, 1, ", 1 thread"), (2, 3, ", 2 threads, 3 processes")]:
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        assert device.exact(cpu, processes) == device.kind(cpu) + words


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cpu:x", "cuda:-1", "CPU", "tpu", "meta"])
def test_a_missing_device_is_refused_in_one_line(monkeypatch, name):
    monkeypatch.setenv("ABN_DEVICE", name)
    with pytest.raises(UserError) as caught:
        device.choose()
    message = str(caught.value)
    assert f"; ABN_DEVICE={name}; " in message
    assert message.endswith("; use cpu, cuda or cuda:N")
    assert len(message.splitlines()) == 1 and len(message) < 200


def test_choosing_makes_torch_deterministic(monkeypatch):
    monkeypatch.setenv("ABN_DEVICE", "cpu")
    torch.use_deterministic_algorithms(False)
    device.choose()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_choosing_does_not_import_the_compiler():
    """It takes a second or two, in every stage."""
    code = "import sys; from abn.runtime import device; device.choose(); "
    code += "print('torch._dynamo' in sys.modules)"
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert output == "False\n"


def test_on_the_cpu_freed_memory_is_kept(monkeypatch, kept):
    monkeypatch.setenv("ABN_DEVICE", "cpu")
    device.choose()
    assert kept == [1]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_kept_memory_causes_no_page_faults():
    command = [sys.executable, "-c", BEFORE_AND_AFTER]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 10 and after < before / 10


@pytest.mark.parametrize("given, expected", [(None, ":4096:8"), (":16:8", ":16:8")])
def test_cublas_is_deterministic_unless_the_user_chose(monkeypatch, given, expected):
    monkeypatch.setenv("ABN_DEVICE", "cpu")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    if given is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given)
    device.choose()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == expected


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    """Two GPUs, as a stage of DVC sees them; yields what takes one as another process does."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(device, "open_device", lambda name, where: torch.device(name))
    monkeypatch.setattr(torch.cuda, "set_device", lambda place: None)
    monkeypatch.delenv("ABN_DEVICE", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    given_back = []
    monkeypatch.setattr(device.atexit, "register", lambda *call: given_back.append(call))
    device._leased.cache_clear()

    def take(place):
        path = tmp_path / ".cache" / "locks" / f"gpu-{place}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        given_back.append((device._give_back, path, locks.acquire(path, timeout=0)))

    yield take
    for call, *arguments in given_back:
        call(*arguments)
    device._leased.cache_clear()
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize(
    ("taken", "chosen"), [((), "cuda"), ((0,), "cuda:1"), ((1,), "cuda"), ((0, 1), "cuda")]
)
def test_experiments_side_by_side_use_different_gpus(two_gpus, taken, chosen):
    for place in taken:
        two_gpus(place)
    assert device.choose() == device.choose() == torch.device(chosen)


def test_the_chosen_gpu_is_the_current_one(two_gpus, monkeypatch):
    """CUDA graphs and Triton use the current GPU, whatever GPU their tensors are on."""
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abn")
    device.choose(0)  # it is the current one from the start
    device.choose(1)
    monkeypatch.setenv("ABN_DEVICE", "cpu")
    device.choose(1)
    assert current == [torch.device("cuda:1")]


def test_a_named_gpu_and_a_process_of_a_training_take_what_they_are_given(two_gpus, monkeypatch):
    two_gpus(0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abn")
    assert device.choose(0) == torch.device("cuda")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("ABN_DEVICE", "cuda:0")
    assert device.choose() == torch.device("cuda:0")
