"""Which gates apply to which map, and which map may be shown."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from abn.config.params import Gates, Params
from abn.explain import answers, leak
from abn.explain.answers import recommended
from abn.explain.verdict import Gate, limits

GOOD = [Gate(name, "?", "?", outcome="pass") for name in ("faithful", "sane")]


@pytest.fixture
def thresholds(params: Params) -> Gates:
    return params.explain.gates


def srg(**means: float) -> dict[str, dict[str, Tensor]]:
    return {name: {"srg": torch.tensor([mean, float("nan")])} for name, mean in means.items()}


def test_of_the_maps_that_pass_the_one_with_the_highest_srg_is_recommended() -> None:
    bad = [*GOOD[:1], Gate("sane", "?", "?", outcome="fail")]
    waiting = [*GOOD[:1], Gate("sane", "?", "?", outcome="undecided")]
    scores = srg(attention=0.1, att_cam=0.3, gradcam=0.5, hirescam=0.4)
    gates = {"attention": GOOD, "att_cam": GOOD, "gradcam": bad, "hirescam": waiting}
    assert recommended(gates, scores) == "att_cam"
    assert recommended({"attention": GOOD, "gradcam": bad}, scores) == "attention"
    assert recommended({"gradcam": bad}, scores) == "none"


def empty_pictures(monkeypatch: pytest.MonkeyPatch, thresholds: Gates, **named: int) -> Gate:
    """The gate `leak` of 200 images of ten classes, some of which are named on each probe."""
    predicted = torch.arange(200) % 10
    other = (predicted + 1) % 10
    said = {probe: torch.cat([predicted[:count], other[count:]]) for probe, count in named.items()}
    monkeypatch.setattr(leak, "answers", lambda case: said)
    case: Any = SimpleNamespace(
        once=lambda compute: leak.answers(None),  # type: ignore[arg-type]
        samples=SimpleNamespace(predicted=predicted),
    )
    same = {f"leak_{probe}": (each == predicted).double() for probe, each in said.items()}
    return answers._leak(case, {"attention": same}, thresholds)


def test_the_worse_of_the_two_probes_is_the_leak(
    monkeypatch: pytest.MonkeyPatch, thresholds: Gates
) -> None:
    both = empty_pictures(monkeypatch, thresholds, noise=20, grey=22)
    assert both.outcome == "pass" and both.value == pytest.approx(0.11)
    assert both.note == "grey, chance 0.10" and both.threshold == pytest.approx(0.15)
    grey = empty_pictures(monkeypatch, thresholds, noise=20, grey=60)
    assert grey.outcome == "fail" and grey.value == pytest.approx(0.3)
    noise = empty_pictures(monkeypatch, thresholds, noise=32, grey=10)
    assert noise.outcome == "undecided" and noise.value == pytest.approx(0.16)
    assert noise.note.endswith("would decide; noise, chance 0.10")


def test_the_limits_of_the_leak_are_multiples_of_chance(thresholds: Gates) -> None:
    limit = limits(thresholds, leak_chance=0.2)["leak"]
    assert (limit.threshold, limit.margin) == (pytest.approx(0.3), pytest.approx(0.1))
