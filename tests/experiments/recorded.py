"""Results as DVC records them, in a repository of git."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

HISTORY = """epoch,train_loss,val_top1,val_attention_top1,val_loss
1,2.0,0.5,0.5,2.0
2,{loss},0.75,0.5,1.0
"""
GATES = """gate,question,measure,threshold,value,low,high,outcome,units,images_needed,note
live,Can it change anything?,gain,1.1,{gain},1.2,1.4,pass,40,,
causal,Do decisions change?,flips,0.02,0.01,0.0,0.1,undecided,40,90,
"""
SHEET = "outputs/abn_attentions.png"
WEIGHTS = "checkpoint/model.safetensors"


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def run(
    arch: str = "resnet18",
    seed: int = 1,
    right: int = 30,
    srg: float = 0.25,
    verdict: str = "explains",
    data: str = "d1",
    code: str = "c1",
    lr: float = 0.1,
    device: str = "CPU, 2 threads",
    cells: dict[int, str] | None = None,
) -> None:
    """The files of a run in the workspace: of 40 validation images the first `right` are right.

    `cells` are the top cells of the images that were explained, by index.
    """
    predictions = "".join(
        f"{i},{'ab'[i % 2]},{'ab'[i % 2] if i < right else '?'}\n" for i in range(40)
    )
    texts: dict[str, dict[str, str]] = {
        "train": {
            "metrics/train.json": json.dumps({"val_loss": 1.0, "device": device}),
            "plots/history.csv": HISTORY.format(loss=seed),
        },
        "evaluate": {
            "metrics/evaluate.json": json.dumps({"top1": right / 40, "ece": 0.05}),
            "plots/predictions.csv": f"file,label,prediction\n{predictions}",
        },
        "explain": {
            "metrics/explain.json": json.dumps(
                {"verdict": verdict, "srg": srg, "recommended": "att_cam"}
            ),
            "plots/explain_gates.csv": GATES.format(gain=srg),
        },
    }
    if cells:
        rows = "".join(f"{index},{top}\n" for index, top in cells.items())
        texts["explain"]["plots/explain_images.csv"] = f"index,top_cells\n{rows}"
    params: dict[str, dict[str, Any]] = {
        "train": {"arch": arch, "seed": seed, "train": {"lr": lr, "epochs": 2}},
        "visualize": {"visualize": {"classes": 2}},
    }
    deps = {
        "train": {
            "data/train.safetensors": data,
            "data/val.safetensors": data,
            "abn/training": code,
        },
        "evaluate": {"data/val.safetensors": data, WEIGHTS: "w1"},
        "explain": {"data/val.safetensors": data, WEIGHTS: "w1"},
    }
    outs = {"train": {"checkpoint": folder("w1")}, "visualize": {SHEET: "sheet"}}
    stages = {
        stage: {
            "deps": _entries(deps.get(stage, {})),
            "params": {"params.yaml": params.get(stage, {})},
            "outs": _entries(outs.get(stage, {}) | _digests(texts.get(stage, {}))),
        }
        for stage in ("train", "evaluate", "explain", "visualize")
    }
    for path, text in {p: t for each in texts.values() for p, t in each.items()}.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)
    write_lock(stages)


def folder(weights: str) -> str:
    """DVC's checksum of the folder of one file, the weights of the given MD5."""
    return md5(json.dumps([{"md5": weights, "relpath": "model.safetensors"}]).encode()) + ".dir"


def write_lock(stages: dict[str, Any]) -> None:
    Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))


def read_lock() -> dict[str, Any]:
    return dict(json.loads(Path("dvc.lock").read_text())["stages"])


def record(name: str, when: int = 0, **results: Any) -> str:
    """A run as DVC's experiment `name`; its commit. The workspace keeps its files."""
    run(**results)
    git("add", "-A")
    base, tree = git("rev-parse", "HEAD"), git("write-tree")
    date = f"GIT_COMMITTER_DATE={1_700_000_000 + when} +0000"
    command = ["env", date, "git", "commit-tree", tree, "-p", base, "-m", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", done.stdout.strip())
    return done.stdout.strip()


def cache(content: bytes, name: str) -> None:
    """Put `content` into DVC's cache as the file of MD5 `name`."""
    file = Path(".dvc/cache/files/md5", name[:2], name[2:])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def _entries(found: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"path": path, "md5": digest} | ({"nfiles": 1} if digest.endswith(".dir") else {})
        for path, digest in found.items()
    ]


def _digests(texts: dict[str, str]) -> dict[str, str]:
    return {path: md5(text.encode()) for path, text in texts.items()}
