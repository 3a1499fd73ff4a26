"""What is said of a sweep's rounds, by hand, and what is read from a store."""

import sqlite3
from pathlib import Path
from typing import Any

from benchmarks import sweep
from benchmarks.sweep import ALL, FEWER, TWO


def came(seconds: float, locks: dict[str, str], left: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"seconds": seconds, "results": 2, "runs": 2, "left": list(left), "locks": locks}


def test_ratios_are_taken_within_a_round_and_bytes_are_compared_with_the_first() -> None:
    same, other = {"a": "1", "b": "2"}, {"a": "1", "b": "3"}
    rounds = [
        {ALL: came(10, other), FEWER: came(20, same), TWO: came(12, same)},
        {ALL: came(20, other), FEWER: came(40, other), TWO: came(22, same, ("a.part",))},
        {ALL: came(10, other), FEWER: came(30, same), TWO: came(15, same)},
    ]
    found = sweep.summary(rounds)
    assert found["two_at_a_time_against_one_by_one"] == 1.2  # of 1.2, 1.1, 1.5
    assert found["two_at_a_time_against_one_by_one_with_fewer_threads"] == 0.55  # of .6, .55, .5
    assert found["same_bytes"] == {ALL: [1, 1, 1], FEWER: [2, 1, 2], TWO: [2, 2, 2]}
    assert found[TWO]["seconds"] == [12, 22, 15] and found[TWO]["left"] == ["a.part"]


def test_runs_are_read_with_their_status_params_and_last_metrics(tmp_path: Path) -> None:
    assert sweep.runs(tmp_path) == {} and not (tmp_path / "mlflow.db").exists()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table runs (run_uuid, name, status)")
        for table in ("params", "latest_metrics"):
            database.execute(f"create table {table} (run_uuid, key, value)")
        database.execute("insert into runs values ('1', 'r-s1', 'FINISHED')")
        database.execute("insert into params values ('1', 'seed', '1')")
        database.execute("insert into latest_metrics values ('1', 'loss', 0.5)")
    database.close()
    params = {"params.seed": "1", "latest_metrics.loss": 0.5}
    assert sweep.runs(tmp_path) == {"r-s1": {"status": "FINISHED"} | params}
