"""The device that is asked for, or one line that says what could have been."""

import os

import pytest
import torch

from abn import device
from abn.errors import UserError


@pytest.fixture(autouse=True)
def _left_as_found(monkeypatch):
    before = torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # choose() may set it for good
    yield
    torch.use_deterministic_algorithms(before)


def test_the_named_device_is_taken(monkeypatch):
    monkeypatch.setenv("ABN_DEVICE", "cpu")
    assert device.choose() == torch.device("cpu")


@pytest.mark.parametrize("unnamed", [None, ""])
def test_without_a_name_it_is_the_gpu_where_there_is_one(monkeypatch, unnamed):
    monkeypatch.delenv("ABN_DEVICE", raising=False)
    if unnamed is not None:
        monkeypatch.setenv("ABN_DEVICE", unnamed)
    assert device.choose().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cpu:x", "cuda:-1", "CPU"])
def test_a_device_that_is_not_there_is_refused_in_one_line(monkeypatch, name):
    monkeypatch.setenv("ABN_DEVICE", name)
    with pytest.raises(UserError) as caught:
        device.choose()
    message = str(caught.value)
    assert message.startswith(f"ABN_DEVICE={name}: ")
    assert message.endswith("; use cpu, cuda or cuda:N")
    assert len(message.splitlines()) == 1


def test_from_then_on_torch_is_deterministic(monkeypatch):
    monkeypatch.setenv("ABN_DEVICE", "cpu")
    torch.use_deterministic_algorithms(False)
    device.choose()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize("given, expected", [(None, ":4096:8"), (":16:8", ":16:8")])
def test_cublas_is_deterministic_unless_the_user_chose(monkeypatch, given, expected):
    monkeypatch.setenv("ABN_DEVICE", "cpu")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    if given is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given)
    device.choose()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == expected


def test_the_cpu_is_described_with_its_threads():
    threads = torch.get_num_threads()
    assert device.describe(torch.device("cpu")) == f"cpu ({threads} threads)"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_described_with_its_name():
    name = torch.cuda.get_device_name(0)
    assert device.describe(torch.device("cuda:0")) == f"cuda:0 ({name})"
