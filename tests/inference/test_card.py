"""The model card: it says what was measured of these very weights, and nothing else."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from abn.cli.main import main
from tests import toys

pytest.importorskip("huggingface_hub")

GATES = """gate,question,measure,threshold,value,low,high,outcome,units,images_needed,note
live,Can it change anything?,gain,1.1,1.29,1.27,1.31,pass,200.0,,
local,Is it on the object?,AUROC,0.0,-0.11,-0.13,-0.09,fail,200.0,,
stable,Do other seeds agree?,IoU,0.5,,,,not measured,,,
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose dvc.lock says that its results were made from its weights."""
    toys.saved(tmp_path / "checkpoint", ("cat", "a|b"), resize=40, unlike_below=2.5)
    outputs = {
        "metrics/evaluate.json": json.dumps({"top1": 0.5, "ece": 0.1}),
        "metrics/explain.json": json.dumps(
            {"verdict": "does not explain", "recommended": "none", "images": 200}
        ),
        "plots/explain_gates.csv": GATES,
        "outputs/abn_attentions.png": "a picture",
    }
    for name, text in outputs.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "params.yaml").write_text("evaluate: {checkpoint: checkpoint/model.safetensors}")
    write_lock(tmp_path, list(outputs))
    return tmp_path


def write_lock(project: Path, outputs: list[str]) -> None:
    model = "checkpoint/model.safetensors"
    entries = [{"path": name, "md5": md5(project / name)} for name in (model, *outputs)]
    used = {"params.yaml": {"data.name": "shapes"}}
    stage = {"deps": entries[:1], "outs": entries[1:], "params": used}
    (project / "dvc.lock").write_text(yaml.safe_dump({"stages": {"explain": stage}}))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def written(project: Path) -> dict[str, bytes]:
    """What `abn push` would send."""
    folder, source = project / "sent", project / "checkpoint/model.safetensors"
    assert main(["push", "me/net", "--checkpoint", str(source), "--to", str(folder)]) == 0
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_card_has_data_accuracy_verdict_numbers_and_picture(project: Path) -> None:
    content = written(project)
    lines = content["README.md"].decode().splitlines()
    assert yaml.safe_load("\n".join(lines[1:6]))["pipeline_tag"] == "image-classification"
    assert "| data | shapes |" in lines and r"| classes | cat, a\|b |" in lines
    unlike = next(line for line in lines if "called unlike the training data" in line)
    assert "log(sum(exp(logits))) is below 2.5, as for 5 % of the validation images" in unlike
    assert "| top-1 of the perception branch, the network's answer | 0.5000 |" in lines
    assert "| Is it on the object? | fail | -0.11 | -0.13 to -0.09 | 0 |" in lines
    assert "| Do other seeds agree? | not measured |  |  | 0.5 |" in lines
    assert any("Verdict: **does not explain**." in line for line in lines)
    assert "![Images and where the network looked](attentions.png)" in lines
    assert 'model = abn.load("hf://me/net")' in lines
    assert content["attentions.png"] == b"a picture"


def test_a_smooth_network_is_called_so_on_its_page_and_in_its_settings(tmp_path: Path) -> None:
    toys.saved(tmp_path / "checkpoint", ("cat", "dog"), smooth=True)
    content = written(tmp_path)
    line = "| network | resnet18, `attention: residual`, `smooth: true` |"
    assert line in content["README.md"].decode().splitlines()
    assert json.loads(content["config.json"])["smooth"] is True


def test_config_says_how_images_are_shown_and_names_the_classes(project: Path) -> None:
    config = json.loads(written(project)["config.json"])
    assert (config["image_size"], config["resize"], config["arch"]) == (32, 40, "resnet18")
    assert config["id2label"] == {"0": "cat", "1": "a|b"}
    assert config["unlike_below"] == 2.5
    assert config["label2id"] == {"cat": 0, "a|b": 1}


def test_results_of_other_weights_are_not_on_the_card(project: Path) -> None:
    (project / "metrics/explain.json").write_text('{"verdict": "explains", "images": 9}')
    content = written(project)
    card = content["README.md"].decode()
    assert "0.5000" in card and "Verdict" not in card
    assert "## Does the map explain the decision?\n\nNot measured on these weights." in card


@pytest.mark.parametrize("lock", ["", "<<<<<<< HEAD\nstages:\n", "[]", "stages:\n", b"\xff"])
def test_of_a_lock_that_is_none_nothing_is_on_the_card(lock: str | bytes, project: Path) -> None:
    """A merge that is not finished leaves marks in it."""
    (project / "dvc.lock").write_bytes(lock.encode() if isinstance(lock, str) else lock)
    content = written(project)
    assert content["README.md"].decode().count("Not measured on these weights.") == 2


def test_weights_without_a_project_have_a_card_without_numbers(project: Path) -> None:
    (project / "dvc.lock").unlink()
    content = written(project)
    assert content.keys() == {"README.md", "config.json", "model.safetensors"}
    assert content["README.md"].decode().count("Not measured on these weights.") == 2
