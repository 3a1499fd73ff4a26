"""What a network's page on the Hub says: its model card, and its settings as JSON.

Numbers and pictures are those that dvc.lock has as made from these very weights. Without a project
around the weights the card says that nothing was measured.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abn.experiments import dvc
from abn.inference import hub
from abn.models import checkpoint
from abn.project import paths, results
from abn.version import __version__
from abn.visualize import answer
from abn.visualize.tiles import map_name

UNKNOWN = "Not measured on these weights.\n"
HEAD = "| question | outcome | value | 95 % interval | threshold |\n|---|---|---|---|---|"
GATES = paths.explain_table("gates")
CARD = """---
library_name: pytorch
pipeline_tag: image-classification
tags:
- attention-branch-network
- explainability
---

# {arch}, an Attention Branch Network

It names the class of an image, and gives a map of where it looked.

| | |
|---|---|
{facts}

## Accuracy

{accuracy}

## Does the map explain the decision?

{verdict}{picture}
## Use

```python
import abn  # pip install 'attention-branch-network[hub]'

model = abn.load("hf://{repo}")
result = model.predict("image.jpg")
result.label, result.classes, result.map
```

`abn pull {repo}` fetches the files. `config.json` says how images are to be shown, and how it was
trained.
"""
SCORES = {  # of evaluate.json, and what the card calls them
    "top1": "top-1 of the perception branch, the network's answer",
    "top5": "top-5",
    "attention_top1": "top-1 of the attention branch alone",
    "balanced_accuracy": "mean recall of the classes",
    "majority_share": "top-1 of always naming the most frequent class",
    "ece": "calibration error",
}


def content(source: Path, target: str) -> dict[str, bytes | Path]:
    """The files of a repository `target` with the checkpoint `source`, by name."""
    header = {"attention": "residual"} | json.loads(checkpoint.read(source)[0]["abn"])
    project = source.resolve().parent.parent
    own = _results(project) if _is_of(project, source) else {}
    measured = {path: _read(file) for path, file in own.items() if path.suffix != ".html"}
    params = dvc.params(project) if own else {}
    facts = header | {"sha256": checkpoint.sha256(source), "data": params.get("data.name")}
    text = card(facts, measured, hub.address(target).repo)
    found: dict[str, bytes | Path] = {hub.WEIGHTS: source, hub.CARD: text.encode()}
    found[hub.CONFIG] = (json.dumps(config(header), indent=2, sort_keys=True) + "\n").encode()
    return found | ({hub.SHEET: own[paths.SHEET]} if paths.SHEET in own else {})


def _is_of(project: Path, source: Path) -> bool:
    """Whether `source` is the checkpoint that DVC's stages in `project` made and read."""
    model = project / dvc.MODEL
    return (project / dvc.LOCK).exists() and model.exists() and model.samefile(source)


def _results(project: Path) -> dict[Path, Path]:
    """The files that dvc.lock has as made from the weights in `project`, by their names there."""
    return {path.relative_to(project): path for path in dvc.results(project, math.inf)}


def config(header: Mapping[str, Any]) -> dict[str, Any]:
    """config.json: the checkpoint's header, with names as the Hub's tools know them."""
    labels = dict(enumerate(header["classes"]))
    train = header["params"]["train"]
    sizes = {"image_size": train["val_size"], "resize": train["val_resize"]}
    names = {"id2label": labels, "label2id": {name: label for label, name in labels.items()}}
    return {"model_type": "attention-branch-network", **header, **sizes, **names}


def card(header: Mapping[str, Any], measured: Mapping[Path, Any], repo: str) -> str:
    """The text of README.md. `measured`: the metrics and tables that are of these weights."""
    train = header["params"]["train"]
    facts = {
        "network": f"{header['arch']}, `attention: {header['attention']}`"
        + (", `smooth: true`" if header.get("smooth") else ""),
        "data": header["data"] or "not known",
        "classes": ", ".join(map(_cell, header["classes"])),
        "images are shown as": f"the central square of {train['val_size']} px where the short "
        f"side is {train['val_resize']} px, RGB in [0, 1]; normalisation is inside",
        **_unlike(header),
        "sha256 of the weights": header["sha256"],
        "written by": f"attention-branch-network {__version__}",
    }
    return CARD.format(
        arch=header["arch"],
        facts=_rows(facts),
        accuracy=_accuracy(measured.get(paths.EVALUATE_METRICS, {})),
        verdict=_verdict(measured.get(paths.EXPLAIN_METRICS, {}), measured.get(GATES, [])),
        picture=f"\n![Images and where the network looked]({hub.SHEET})\n"
        if paths.SHEET in measured
        else "",
        repo=repo,
    )


def _unlike(header: Mapping[str, Any]) -> dict[str, str]:
    """The row on images unlike the training data; none of an older checkpoint."""
    if (below := header.get("unlike_below")) is None:
        return {}
    text = f"where log(sum(exp(logits))) is below {below:.4g}, as for 5 % of the validation images"
    return {"an image is called unlike the training data": text}


def _read(file: Path) -> Any:
    """A file's metrics, or its table as rows; None for a picture."""
    if file.suffix == ".json":
        return results.metrics(file)
    return results.table(file).to_dict("records") if file.suffix == ".csv" else None


def _accuracy(scores: Mapping[str, Any]) -> str:
    known = {text: f"{scores[name]:.4f}" for name, text in SCORES.items() if name in scores}
    table = f"On the validation images:\n\n| score | value |\n|---|---|\n{_rows(known)}"
    return table if known else UNKNOWN


def _verdict(explain: Mapping[str, Any], gates: list[dict[str, Any]]) -> str:
    """The verdict, the sentence that says it, and the gates behind it with their numbers."""
    if not explain:
        return UNKNOWN
    table = "\n".join(map(_gate, gates))
    best = explain.get("recommended", "not measured")
    shown = best if best in ("none", "not measured") else map_name(best)
    return (
        f"Verdict: **{explain['verdict']}**. {answer.first_sentence(explain, gates)[1]}\n\n"
        f"Measured on {explain['images']} validation images. The map to show: {shown}.\n\n"
        f"{HEAD}\n{table}\n"
    )


def _gate(row: Mapping[str, Any]) -> str:
    """A row of the table of gates; a number that was not measured is an empty cell."""
    numbers = {name: _number(row[name]) for name in ("value", "low", "high", "threshold")}
    interval = f"{numbers['low']} to {numbers['high']}" if numbers["low"] else ""
    cells = row["question"], row["outcome"], numbers["value"], interval, numbers["threshold"]
    return f"| {' | '.join(cells)} |"


def _rows(cells: Mapping[str, str]) -> str:
    return "\n".join(f"| {name} | {text} |" for name, text in cells.items())


def _cell(text: str) -> str:
    """`text` as it is in a table of Markdown."""
    return " ".join(text.split()).replace("|", r"\|")


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4g}"
