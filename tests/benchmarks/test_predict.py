"""`abn predict` against bare forwards: ratios are those of one round, the median is reported."""

from benchmarks import predict
from benchmarks.predict import Took


def test_the_command_is_compared_with_the_bare_forwards_of_its_own_round() -> None:
    # always a tenth longer, on a machine that is slower in every round
    rounds = [
        {"bare": Took(slow, 2 * slow), "predict": Took(1.1 * slow, 2.5 * slow)}
        for slow in (10.0, 20.0, 50.0)
    ]
    assert predict.summary(rounds, "predict", 1000) == {
        "seconds": 22.0,
        "images_per_second": 45.5,
        "times_bare": 1.1,
        "times_bare_least": 1.1,
        "times_bare_most": 1.1,
        "times_bare_cpu": 1.25,
    }
