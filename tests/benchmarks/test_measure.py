"""Statistics over trainings, and what is printed of them."""

import pytest

from abn.runtime.errors import DataError
from benchmarks import measure


def test_the_interval_over_trainings_is_students() -> None:
    found = measure.over_trainings([1.0, 2.0, 3.0])
    reach = 4.302653 / 3**0.5  # t of 97.5 % with 2 degrees of freedom, times sd / root of 3
    assert found["mean"] == 2 and found["sd"] == 1 and found["trainings"] == 3
    assert found["low"] == pytest.approx(2 - reach) and found["high"] == pytest.approx(2 + reach)
    assert measure.spread(found) == "2 +- 1"
    assert measure.with_interval(found) == "2 [-0.484, 4.48]"


def test_one_training_has_no_spread() -> None:
    found = measure.over_trainings([0.25])
    assert found == {"mean": 0.25, "sd": None, "low": None, "high": None, "trainings": 1}
    assert measure.spread(found) == measure.with_interval(found) == "0.25"


def test_no_training_has_no_mean() -> None:
    found = measure.over_trainings([])
    assert found == {"mean": None, "sd": None, "low": None, "high": None, "trainings": 0}
    assert measure.with_interval(found) == "-"


def test_an_error_of_the_user_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ABN_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended, measure.for_people():
        raise DataError("damaged", "a file", "replace it")
    assert ended.value.code == DataError.exit_code
    assert capsys.readouterr().err == "error[DATA] damaged; a file; replace it\n"


def test_a_benchmark_that_is_stopped_says_how_it_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended, measure.for_people():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err
