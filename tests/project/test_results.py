"""What stages wrote is read back as it was written."""

from pathlib import Path

import pandas as pd
import pytest

from abn.project import reports, results
from abn.runtime.errors import UserError


def test_classes_keep_their_names_and_gaps_stay_gaps(tmp_path: Path) -> None:
    table = pd.DataFrame({"class": ["007", "NA", "nan"], "f1": [0.5, None, 1.0]})
    reports.write_table(tmp_path / "a.csv", table)
    found = results.table(tmp_path / "a.csv")
    assert found["class"].tolist() == ["007", "NA", "nan"]
    assert found["f1"].isna().tolist() == [False, True, False]


def test_metrics_come_back(tmp_path: Path) -> None:
    reports.write_metrics(tmp_path / "a.json", {"srg": 0.5, "verdict": "explains"})
    assert results.metrics(tmp_path / "a.json") == {"srg": 0.5, "verdict": "explains"}


def test_a_missing_file_is_one_line_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^not found; plots/explain_maps\.csv; run `dvc repro`"):
        results.read()
