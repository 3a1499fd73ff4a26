"""How often a gate answers wrongly where the truth lies exactly on its threshold: by simulation.

At the threshold both "pass" and "fail" are wrong. Each may happen in 2.5 % of all repetitions; 1 %
more is allowed for what is simulated. The distributions are those that the scores have: of a
trained network, SRG differences are broad and symmetric, AUROC differences have a tail to the left,
gains one to the right, overlaps have five values and flips are means of five draws.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Beta

from abn.explain import statistics
from abn.explain.answers import LEAK_LEVEL
from abn.explain.statistics import mean_bounds, share_bounds, two_level_bounds
from abn.runtime.rng import generator

ALLOWED = 0.025 + 0.01
REPETITIONS = 4000
IMAGES = (20, 50, 200)
Draw = Callable[[int, int], Tensor]  # repetitions, images -> values with mean `threshold`


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator("error rates"))))


def beta(a: float, b: float, scale: float, mean: float) -> Draw:
    """Values of Beta(a, b), stretched by `scale` and moved to `mean`."""
    return lambda r, n: mean + scale * (Beta(a, b).sample((r, n)).double() - a / (a + b))


def overlaps(repetitions: int, images: int) -> Tensor:
    """IoU of 4 of 16 cells: s / (8 - s) of s shared ones; their mean is 0.5."""
    values = torch.tensor([0, 1 / 7, 1 / 3, 3 / 5, 1], dtype=torch.float64)
    weights = torch.tensor([0.10, 0.15, 0.20, 0.25, 0.30], dtype=torch.float64)
    picks = torch.multinomial(weights, repetitions * images, replacement=True)
    return values[picks].view(repetitions, images) - (values * weights).sum() + 0.5


MEANS: dict[str, tuple[float, Draw]] = {
    "live": (1.1, lambda r, n: 1 + 0.1 * torch.distributions.Gamma(3.0, 3.0).sample((r, n))),
    "faithful": (0.0, lambda r, n: 0.3 * torch.randn(r, n)),
    "faithful_centre": (0.0, beta(2, 2.5, 1.2, 0.0)),
    "faithful_edges": (0.0, beta(4, 2, 1.0, 0.0)),
    "local": (0.0, beta(8, 2, 1.0, 0.0)),
    "stable": (0.5, overlaps),
}


def rates(bounds: tuple[Tensor, Tensor], truth: float) -> tuple[float, float]:
    """The shares of intervals that lie wholly above and wholly below the truth."""
    low, high = bounds
    return float((low > truth).double().mean()), float((high < truth).double().mean())


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("gate", MEANS)
def test_a_mean_on_its_threshold_is_rarely_told_to_be_off_it(gate: str, images: int) -> None:
    threshold, draw = MEANS[gate]
    values = draw(REPETITIONS, images).double()
    assert max(rates(mean_bounds(values), threshold)) <= ALLOWED


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize(("gate", "threshold"), [("causal", 0.02), ("class_specific", 0.25)])
@pytest.mark.parametrize("alike", [0.05, 0.5, 5.0])  # how alike the draws of one image are
def test_a_share_on_its_threshold_is_rarely_told_to_be_off_it(
    gate: str, threshold: float, alike: float, images: int
) -> None:
    draws = 5 if gate == "causal" else 4
    each = Beta(alike * threshold, alike * (1 - threshold)).sample((REPETITIONS, images, 1))
    flips = (torch.rand(REPETITIONS, images, draws) < each).double()
    assert max(rates(share_bounds(flips.mean((1, 2)), images), threshold)) <= ALLOWED


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("spread", [0.0, 0.03, 0.1])  # of the draws of random weights
@pytest.mark.parametrize("draws", [5, 10])
def test_random_weights_on_the_threshold_of_sane_are_rarely_told_to_be_off_it(
    draws: int, spread: float, images: int
) -> None:
    few = REPETITIONS // 2
    left = 0.5 + spread * torch.randn(few, draws, 1) + 0.2 * torch.randn(few, 1, images)
    left = (left + 0.15 * torch.randn(few, draws, images)).double()
    assert max(rates(two_level_bounds(left), 0.5)) <= ALLOWED


def leaks(truth: float, images: int, repetitions: int) -> tuple[Tensor, Tensor]:
    """Whether the gate `leak` passes, and fails, for two independent probes; chance is 0.1."""
    means = (torch.rand(repetitions, 2, images) < truth).double().mean(2)
    low, high = share_bounds(means, images, LEAK_LEVEL)
    passed = ((means <= 0.15) & (high < 0.2)).all(1)
    return passed, (low > 0.15).any(1)


@pytest.mark.parametrize("images", IMAGES)
def test_a_leak_of_twice_chance_rarely_passes_and_one_at_the_threshold_rarely_fails(
    images: int,
) -> None:
    assert leaks(0.2, images, REPETITIONS)[0].double().mean() <= ALLOWED
    assert leaks(0.15, images, REPETITIONS)[1].double().mean() <= ALLOWED


def test_a_network_without_a_leak_passes_at_two_hundred_images() -> None:
    passed, failed = leaks(0.1, 200, REPETITIONS)
    assert passed.double().mean() > 0.9 and failed.double().mean() < 0.001


def test_below_the_least_number_of_units_a_tail_breaks_the_promise() -> None:
    """Why there is a least number: Student's interval of ten gains is wrong too often."""
    _, draw = MEANS["live"]
    few = draw(REPETITIONS, 8).double()
    mean, reach = few.mean(1), few.std(1) * 2.365 / 8**0.5
    assert max(rates((mean - reach, mean + reach), 1.1)) > ALLOWED
    assert statistics.UNITS > 8
