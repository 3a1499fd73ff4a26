"""The verdict on a network's map: the explain stage's, where that explained these very weights."""

import json
from pathlib import Path
from typing import NamedTuple

from abn.runtime import files

UNKNOWN = "unknown"
METRICS = Path("metrics/explain.json")  # in the project of the checkpoint
WEIGHTS = "weights"  # its key: the SHA-256 of the checkpoint that was explained


class Verdict(NamedTuple):
    """What is known of the map."""

    verdict: str  # explains | partly explains | does not explain | undecided | ...; UNKNOWN
    recommended: str | None  # the map that may be shown; None: not known
    source: str  # the file that says so, or why nothing is known

    def line(self) -> str:
        """The verdict in a line."""
        if self.verdict == UNKNOWN:
            return f"verdict unknown: {self.source}"
        return f"verdict {self.verdict}, recommended map {self.recommended} ({self.source})"


def of(checkpoint: Path, weights: str) -> Verdict:
    """The verdict on the map of the network in `checkpoint`, whose SHA-256 is `weights`.

    The verdict is measured after the training, so the checkpoint has none: it is read from the
    project whose folder the checkpoint is in.
    """
    folder = files.absolute(checkpoint).parent  # not resolve: DVC may link to its cache
    for place in (folder, folder.parent):
        if (place / METRICS).is_file():
            return _read(place / METRICS, weights)
    return _unknown(f"no {METRICS} beside the checkpoint")


def _read(path: Path, weights: str) -> Verdict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        explained = found.get(WEIGHTS)
        known = Verdict(str(found["verdict"]), str(found["recommended"]), str(path))
    except (OSError, ValueError, KeyError, AttributeError):
        return _unknown(f"{path} cannot be read")
    if explained is None:
        return _unknown(f"{path} does not say of which weights it is; run `dvc repro explain`")
    return known if explained == weights else _unknown(f"{path} is of other weights")


def _unknown(why: str) -> Verdict:
    return Verdict(UNKNOWN, None, why)
