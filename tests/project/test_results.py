"""Metrics and tables: six digits, fixed order, the same bytes, and read back as written."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from abn.project import results
from abn.project.results import write_metrics, write_table
from abn.runtime.errors import UserError


def test_metrics_are_json_in_the_order_given_with_six_digits(tmp_path: Path) -> None:
    path = tmp_path / "metrics/train.json"
    write_metrics(path, {"top1": 2 / 3, "epoch": 7, "selected_on": "val", "loss": np.float64(1e-9)})
    assert path.read_text() == (
        '{\n  "top1": 0.666667,\n  "epoch": 7,\n  "selected_on": "val",\n  "loss": 0.0\n}\n'
    )


def test_what_is_sent_while_a_stage_runs_has_the_digits_of_its_files(tmp_path: Path) -> None:
    row = {"epoch": 1, "val_top1": 0.9879999756813049, "device": "CPU"}
    assert results.rounded(row) == {"epoch": 1, "val_top1": 0.988, "device": "CPU"}
    results.write_table(tmp_path / "history.csv", pd.DataFrame([row]))
    assert results.table(tmp_path / "history.csv").to_dict("records") == [results.rounded(row)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_refused_and_the_former_file_stays(tmp_path: Path, value: float) -> None:
    path = tmp_path / "train.json"
    write_metrics(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_metrics(path, {"loss": value})
    assert json.loads(path.read_text()) == {"loss": 1.0}


def test_a_table_is_csv_with_six_digits_and_empty_fields_for_what_was_not_measured(
    tmp_path: Path,
) -> None:
    path = tmp_path / "plots/history.csv"
    rows = [{"epoch": 1, "loss": 2 / 3}, {"epoch": 2, "loss": 0.5, "val_top1": 0.25}]
    write_table(path, pd.DataFrame(rows))
    assert path.read_bytes() == b"epoch,loss,val_top1\n1,0.666667,\n2,0.5,0.25\n"


def test_names_are_utf8_and_quoted_where_they_have_commas(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", pd.DataFrame({"class": ["été", "犬,a"]}))
    assert (tmp_path / "a.csv").read_bytes() == 'class\nété\n"犬,a"\n'.encode()


def test_classes_keep_their_names_and_gaps_stay_gaps(tmp_path: Path) -> None:
    table = pd.DataFrame({"class": ["007", "NA", "nan"], "f1": [0.5, None, 1.0]})
    write_table(tmp_path / "a.csv", table)
    table = results.table(tmp_path / "a.csv")
    assert table["class"].tolist() == ["007", "NA", "nan"]
    assert table["f1"].isna().tolist() == [False, True, False]


RUN = ["=cmd|' /C calc'!A0", "+1", "-2", "@SUM(1)", "\t=1", " =1", "'=1", "''=1", "＝1"]  # noqa: RUF001
HARMLESS = ["cat", "a=b", "'quoted'", "1-2", "", "'", "5"]


@pytest.mark.parametrize("column", results.NAMES)
def test_no_spreadsheet_runs_a_name_and_it_is_read_back_as_it_was(
    tmp_path: Path, column: str
) -> None:
    write_table(tmp_path / "a.csv", pd.DataFrame({column: RUN + HARMLESS, "loss": -1.5}))
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        cells = [row[0] for row in csv.reader(file)][1:]
    places = (name.replace("\t", "\t'") if "\t" in name else f"'{name}" for name in RUN)
    assert cells == [*places, *HARMLESS]
    table = results.table(tmp_path / "a.csv")
    assert table[column].fillna("").tolist() == RUN + HARMLESS
    assert (table["loss"] == -1.5).all()  # a number stays one


def test_a_missing_file_is_one_line_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^not found; metrics/train\.json; run `dvc repro`"):
        results.read()
