"""The verdict on a network's map is the one that was measured on its very weights."""

import json
from pathlib import Path

import pytest

from abn.inference import verdict

KNOWN = {"verdict": "undecided", "recommended": "att_cam", "weights": "12ab"}


def project(folder: Path, metrics: str) -> Path:
    """The checkpoint of a project whose explain stage wrote `metrics`."""
    (folder / "metrics").mkdir()
    (folder / "metrics" / "explain.json").write_text(metrics)
    return folder / "checkpoint" / "model.safetensors"


def test_it_is_read_from_the_project_of_the_checkpoint(tmp_path: Path) -> None:
    found = verdict.of(project(tmp_path, json.dumps(KNOWN)), "12ab")
    source = str(tmp_path / "metrics" / "explain.json")
    assert found == ("undecided", "att_cam", source)
    assert found.line() == f"verdict undecided, recommended map att_cam ({source})"


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        (json.dumps(KNOWN | {"weights": "34cd"}), "is of other weights"),
        (json.dumps({k: v for k, v in KNOWN.items() if k != "weights"}), "does not say of which"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"weights": "12ab"}', "cannot be read"),
    ],
)
def test_it_is_unknown_with_the_reason_where_it_may_be_of_another_network(
    tmp_path: Path, metrics: str, why: str
) -> None:
    found = verdict.of(project(tmp_path, metrics), "12ab")
    assert found.verdict == "unknown" and found.recommended is None and why in found.source


def test_a_checkpoint_far_from_a_project_has_none(tmp_path: Path) -> None:
    found = verdict.of(tmp_path / "model.safetensors", "12ab")
    assert found.line() == "verdict unknown: no metrics/explain.json beside the checkpoint"
