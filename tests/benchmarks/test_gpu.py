"""The GPU's benchmark: lengths from measured steps, scores by hand, records of what was cut off."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from abn.predict import Predictions
from abn.runtime.errors import ParamsError
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import speed, trainings
from benchmarks.gpu.record import Record
from benchmarks.gpu.trainings import Pace
from tests import toys

PLANS = gpu.VARIANTS.parent


def ways(*words: str, **changes: Any) -> dict[str, trainings.Variant]:
    return trainings.read(gpu.VARIANTS, words, changes)


@pytest.mark.parametrize(
    ("seconds", "validate_from", "epochs"),
    [
        (100, 1.0, 46),  # 0.97 * 100 less 5 of one validation, at 2 s an epoch
        (100, 0.85, 43),  # two validations: one after 85 % of the epochs, one at the end
        (100, 0.5, 43),  # two: the second is the last
        (100, 0.3, 38),  # four: at 30, 60, 90 and 100 %
        (1, 1.0, 1),  # never less
    ],
)
def test_epochs_are_what_the_steps_measured_leave_time_for(
    seconds: float, validate_from: float, epochs: int
) -> None:
    pace = Pace([(0.5, 1.0), (0.25, 2.0), (0.25, 4.0)], 5.0)  # 0.5 + 0.5 + 1 = 2 s
    assert trainings.epochs_within(seconds, pace, validate_from) == epochs


def test_the_parts_of_a_training_end_where_its_steps_change() -> None:
    config = ways("smooth50")["smooth50"].config
    assert config.look.start == 0.3
    expected = [0.25, 0.35, 0.25, 0.09, 0.06], [0.125, 0.425, 0.725, 0.895, 0.97]
    found = trainings.parts(config, looks=False)
    assert [list(column) for column in zip(*found, strict=True)] == [
        pytest.approx(column) for column in expected
    ]
    looking = trainings.parts(config, looks=True)
    assert [share for share, _ in looking] == pytest.approx([0.25, 0.05, 0.3, 0.25, 0.09, 0.06])


@pytest.mark.parametrize(
    ("epochs", "validate_from", "every"), [(260, 0.85, 221), (36, 1.0, 36), (1, 0.5, 1)]
)
def test_nothing_is_validated_before_its_share_of_the_epochs(
    epochs: int, validate_from: float, every: int
) -> None:
    assert trainings.validate_every(epochs, validate_from) == every


def test_smoothed_accuracy_and_the_likelihood_of_two_images() -> None:
    """Logits log(2) apart: 2 to 1, and three times as far apart 8 to 1."""
    logits = torch.tensor([[math.log(2), 0.0], [math.log(2), 0.0]])
    both = Predictions(logits, logits, torch.zeros(2, 1, 1), torch.tensor([0, 1]))
    assert trainings.smoothed(both) == pytest.approx((8 / 9 + 1 / 9) / 2)
    assert trainings.nll(both) == pytest.approx(-(math.log(2 / 3) + math.log(1 / 3)) / 2)
    right = Predictions(*(values[:1] for values in both))
    assert trainings.smoothed(right) == pytest.approx(8 / 9)


@pytest.mark.parametrize("name", ["first", "second", "cpu"])
def test_every_plan_names_options_sections_and_variants_that_there_are(name: str) -> None:
    words = ["--photos", "x.tgz", "--plan", str(PLANS / f"{name}.yaml")]
    options = gpu.parsed(words)
    assert set(options.only) <= set(gpu.SECTIONS)
    known = ways(*options.trainings, *options.paced)
    assert len(trainings.chosen(options.trainings, options.seeds, known)) > 1
    assert gpu.parsed([*words, "--budget", "7"]).budget == 7  # the command line wins
    long = [way for way in known.values() if "epochs" not in way.given and options.seconds is None]
    assert all(way.name in options.paced for way in long)


def test_every_variant_is_valid_and_each_proxy_differs_from_its_own_in_one_feature() -> None:
    names = [name for name in yaml.safe_load(gpu.VARIANTS.read_text()) if name[0] != "."]
    known = ways(*names)
    assert {way.params.arch for name, way in known.items() if "18" in name} == {"resnet18"}
    for name, other, keys in [
        ("proxy2", "proxy1", {"smooth"}),
        ("proxy3", "proxy2", {"jitter", "trivial"}),
        ("proxy4", "proxy3", {"optimizer", "muon_lr"}),
        ("proxy5", "proxy3", {"sam", "sam_from"}),
        ("muon18", "smooth18", {"optimizer", "muon_lr", "sam", "sam_from"}),
        ("cpu-muon", "cpu-plain", {"optimizer", "muon_lr"}),
    ]:
        one, two = known[name].given, known[other].given
        assert {key for key in one | two if one.get(key) != two.get(key)} == keys


def test_a_variant_that_is_wrong_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("a: {lrr: 1.0}\nb: {validate_from: 0}\n")
    with pytest.raises(ParamsError, match=r"own.yaml: a: train.lrr"):
        trainings.read(file, ["a:1,2"], {})
    with pytest.raises(ParamsError, match=r"not a share of the epochs; own.yaml: b.validate_from"):
        trainings.read(file, ["b"], {})
    with pytest.raises(ParamsError, match=r"no such variant; .*own.yaml: c; there are a, b"):
        trainings.read(file, ["c"], {})


def test_a_plan_with_an_option_that_there_is_not_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("budgt: 3\n")
    with pytest.raises(ParamsError, match=r"no such option; .*plan.yaml: budgt"):
        gpu.parsed(["--photos", "x.tgz", "--plan", str(tmp_path / "plan.yaml")])


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Toys to train on, with a toy of a network."""
    monkeypatch.setattr(
        trainings.Variant, "network", lambda way, classes, seed=0: toys.network().train()
    )
    small = {"sizes": [32], "grow_at": [], "val_size": 32, "val_resize": 32, "batch_size": 8}
    small |= {"sam": 0.0, "validate_from": 0.5}
    known = ways("proxy0", **small, epochs=3) | ways("smooth18", **small)
    made = argparse.Namespace(out=tmp_path, cache=tmp_path / "cache", known=known, views=[])
    made.train, made.val = toys.split(16), toys.split(8, seed=1)
    made.chosen = [(known["proxy0"], 1), (known["smooth18"], 2)]
    made.seconds, made.until, made.steps = 0.5, math.inf, 1
    return made


def record(options: argparse.Namespace) -> Record:
    return Record(options, "gpu", sparing=0)


def saved(options: argparse.Namespace) -> dict[str, Any]:
    return json.loads((options.out / "gpu.json").read_text())["found"]["accuracy"]


def test_a_training_has_all_its_epochs_in_the_record_and_what_it_reached(
    options: argparse.Namespace,
) -> None:
    found = trainings.accuracy(options, record(options))
    first, second = found["runs"]
    assert first["cold"] and not second["cold"]
    assert [row["epoch"] for row in first["curve"]] == [1, 2, 3]
    assert all(row["train_loss"] > 0 and row["seconds"] > 0 for row in first["curve"])
    assert ["val_top1" in row for row in first["curve"]] == [False, True, True]  # from a half on
    assert first["curve"][-1]["val_top1"] == first["top1"] == first["views"]["32/32"]["top1"]
    assert second["epochs"] >= 1 and second["seconds_asked"] == 0.5
    assert found["together"]["proxy0"]["top1"]["mean"] == first["top1"]


def test_a_run_cut_off_in_its_second_training_leaves_the_first_and_the_epochs_so_far(
    options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = trainings.loop.fit

    def cut(*given: Any, seed: int, on_epoch: Any, **more: Any) -> Any:
        def stopping(row: Any, speed: float) -> None:
            on_epoch(row, speed)
            if seed == 2 and row["epoch"] == 2:
                raise KeyboardInterrupt

        return fit(*given, seed=seed, on_epoch=stopping, **more)

    monkeypatch.setattr(trainings.loop, "fit", cut)
    monkeypatch.setattr(trainings, "length", lambda way, options: 3)
    with pytest.raises(KeyboardInterrupt):
        trainings.accuracy(options, record(options))
    first, second = saved(options)["runs"]
    assert first["finished"] and not second["finished"]
    assert [row["epoch"] for row in second["curve"]] == [1, 2]


def test_a_training_that_fails_is_kept_and_the_next_one_starts(
    options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = trainings.loop.fit

    def failing(*given: Any, seed: int, **more: Any) -> Any:
        if seed == 1:
            raise RuntimeError("out of memory")
        return fit(*given, seed=seed, **more)

    monkeypatch.setattr(trainings.loop, "fit", failing)
    monkeypatch.setattr(trainings, "length", lambda way, options: 1)
    first, second = trainings.accuracy(options, record(options))["runs"]
    assert first["failed"] == "RuntimeError: out of memory" and not first["finished"]
    assert second["finished"]


def test_no_training_starts_that_would_end_after_the_budget(options: argparse.Namespace) -> None:
    options.until = 0.0  # of a clock that counts from the start of the machine
    assert trainings.accuracy(options, record(options))["runs"] == []


def test_a_target_is_reached_by_the_shortest_whole_training_that_ends_above_it() -> None:
    about = {"variant": "a", "epochs": 1, "cold": False}
    runs = [
        {**about, "seed": 1, "seconds": 30.0, "top1": 0.945},
        {**about, "seed": 2, "seconds": 20.0, "top1": 0.91},
        {**about, "seed": 3, "seconds": 10.0, "top1": 0.89},
    ]
    found = trainings.reached(runs)
    assert {target: best and best["seconds"] for target, best in found.items()} == {
        "0.9": 20.0,
        "0.94": 30.0,
        "0.95": None,
    }


def test_the_kernel_that_augments_is_compared_with_todays_way(options: argparse.Namespace) -> None:
    pytest.importorskip("triton", reason="interpreted where there is no GPU")
    options.batch, options.size, options.rounds, options.steps = 2, 8, 1, 1
    found = speed.sampler(options, record(options))
    assert found["largest_difference"] < 1e-4 and found["share_above_2_of_255"] == 0
    assert min(found["seconds_a_batch"].values()) > 0


def test_a_section_that_fails_keeps_what_it_had(
    options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = record(options)

    def failing(options: argparse.Namespace, record: Record) -> dict[str, Any]:
        record.keep("throughput", {"resnet18 auto": 1})
        raise RuntimeError("no memory")

    monkeypatch.setitem(gpu.SECTIONS, "throughput", failing)
    gpu.section("throughput", options, kept)
    text = (options.out / "gpu.json").read_text()
    assert json.loads(text)["found"]["throughput"] == {
        "resnet18 auto": 1,
        "failed": "RuntimeError: no memory",
    }
