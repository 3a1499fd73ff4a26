"""Training in several processes, started by torchrun's engine, learns what one process learns."""

from pathlib import Path
from typing import Any

import pytest
import torch

from abn.training import distributed
from abn.training.distributed import SINGLE, World
from tests import ranks, toys

MIXED: dict[str, Any] = {"mixup": 0.2, "cutmix": 1.0, "mix_share": 0.5, "mix_until": 1.0}
KILLED = "error[LOST] a process ended with SIGKILL; rank 1; run the same command again"
CONFIG: dict[str, Any] = {**MIXED, "ema": 0.9, "jitter": 0.2, "erase": 0.5, "select": "best"}


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 100])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shards_cover_everything_in_order_and_differ_by_at_most_one(count: int, size: int) -> None:
    shards = [World(rank, size).shard(count) for rank in range(size)]
    assert [i for first, last in shards for i in range(first, last)] == list(range(count))
    assert len({last - first for first, last in shards}) <= 2


def test_a_single_process_changes_nothing() -> None:
    values = torch.arange(3.0)
    assert SINGLE.mean(values) is SINGLE.gather(values, 3) is values
    assert SINGLE.broadcast_str("été", torch.device("cpu")) == "été"
    model = torch.nn.Linear(1, 1)
    assert SINGLE.wrap(model, 2) is model
    assert SINGLE.previous(values, 3).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("gpus", "chosen", "carriers"),
    [
        (True, None, {"cpu": "gloo", "cuda": "nccl"}),
        (True, "cpu", {"cpu": "gloo"}),
        (False, None, {"cpu": "gloo"}),
    ],
)
def test_what_is_on_the_cpu_is_gathered_by_gloo_also_where_there_are_gpus(
    gpus: bool, chosen: str | None, carriers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL takes tensors on GPUs only; the predictions that are gathered are on the CPU."""
    dist, asked = distributed.dist, []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: asked.append(backend))
    monkeypatch.setattr(dist, "get_rank", lambda: 3)
    for ending in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(dist, ending, lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("ABN_DEVICE", raising=False)
    if chosen:
        monkeypatch.setenv("ABN_DEVICE", chosen)
    with distributed.world() as world:
        assert world == World(3, 4, 1)
    found = dist.distributed_c10d.BackendConfig(asked[0]).get_device_backend_map()
    assert found.items() >= carriers.items()
    assert found["cpu"] == "gloo" and ("nccl" in found.values()) == ("cuda" in carriers)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a single process learns."""
    folder = tmp_path_factory.mktemp("one")
    ranks.learn(folder, CONFIG, SINGLE)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes learn."""
    return trained(tmp_path_factory.mktemp("two"), 2)


def trained(folder: Path, processes: int) -> Path:
    done = ranks.train(folder, processes, **CONFIG)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("attention", ["residual", "look"])
def test_three_processes_learn_from_masks_as_one_does(attention: str, tmp_path: Path) -> None:
    """Of 32 images 8 have a mask: the shards of a batch, 2 or 3 images, have different numbers."""
    own = {"attention_loss": 1.0, "attention_masks": 0.25, "erase": 0.5, "attention": attention}
    (tmp_path / "one").mkdir()
    ranks.learn(tmp_path / "one", dict(own), SINGLE)
    (tmp_path / "three").mkdir()
    done = ranks.train(tmp_path / "three", 3, **own)
    assert done.returncode == 0, done.stderr
    compare(tmp_path / "one", tmp_path / "three")


def compare(one: Path, other: Path) -> None:
    """Equal up to rounding: a batch of 8 and 7 images to validate on have no equal halves."""
    history, weights = ranks.result(one)
    found, others = ranks.result(other)
    for row, theirs in zip(history, found, strict=True):
        assert theirs == pytest.approx(row, rel=1e-4)
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, rtol=1e-3, atol=1e-5)


def test_two_processes_learn_what_one_learns(one: Path, two: Path) -> None:
    compare(one, two)


def test_three_processes_learn_what_one_learns(one: Path, tmp_path: Path) -> None:
    compare(one, trained(tmp_path, 3))


def test_two_processes_learn_to_look_as_one_does(tmp_path: Path) -> None:
    """The map that a picture is seen under may be another process's; SAM's step is everyone's."""
    config = CONFIG | {"attention": "look", "sam": 0.05, "sam_from": 0.5}
    ranks.learn(tmp_path / "one", dict(config), SINGLE)
    done = ranks.train(tmp_path / "two", 2, **config)
    assert done.returncode == 0, done.stderr
    compare(tmp_path / "one", tmp_path / "two")


def test_after_one_of_two_was_killed_they_end_with_the_same_bits(two: Path, tmp_path: Path) -> None:
    done = ranks.train(tmp_path, 2, fault="1 SIGKILL 6", **CONFIG)
    assert done.returncode == 7
    lines = [line for line in done.stderr.splitlines() if not line.startswith("epoch ")]
    assert lines == ["FRESH", KILLED]
    again = ranks.train(tmp_path, 2, **CONFIG)
    assert "RESUMED after epoch 1, step" in again.stderr
    history, weights = ranks.result(two)
    found, others = ranks.result(tmp_path)
    assert found == history
    assert all(tensor.equal(others[name]) for name, tensor in weights.items())


@pytest.mark.parametrize(("attention", "freeze"), [("residual", "layer1"), ("look", "none")])
def test_two_processes_fine_tune_as_one_does_also_after_one_was_killed(
    attention: Any, freeze: str, tmp_path: Path
) -> None:
    """Frozen parts have no gradient to average; rates and weights are the same on every rank."""
    start = toys.start(tmp_path / "starts", attention)
    config = {**start, "freeze": freeze, "new_lr": 4.0, "balance": "weights", "images": 35}
    config |= {"attention": attention, "ema": 0.9}
    for name in ("one", "two", "killed"):
        (tmp_path / name).mkdir()
    ranks.learn(tmp_path / "one", dict(config), SINGLE)
    assert ranks.train(tmp_path / "two", 2, **config).returncode == 0
    compare(tmp_path / "one", tmp_path / "two")
    assert ranks.train(tmp_path / "killed", 2, fault="1 SIGKILL 6", **config).returncode == 7
    again = ranks.train(tmp_path / "killed", 2, **config)
    assert "RESUMED after epoch 1, step" in again.stderr
    history, weights = ranks.result(tmp_path / "two")
    found, others = ranks.result(tmp_path / "killed")
    assert found == history
    assert all(tensor.equal(others[name]) for name, tensor in weights.items())
