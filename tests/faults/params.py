"""Bad params.yaml, each given to a real stage: one line, exit 2, nothing written, in no time.

tests/test_params.py has many more of them, without the process.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults import Outcome, kind

ROOT = Path(__file__).parents[2]
GOOD = (ROOT / "params.yaml").read_text()
STAGES = ("download", "train", "evaluate", "explain", "visualize")
BOMB = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
BOMB += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]


def edited(line: str, instead: str) -> bytes:
    assert line in GOOD
    return GOOD.replace(line, instead, 1).encode()


# What the file holds, and what the line says of it.
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file = None"),
    "a list": (b"- arch: resnet18\n", "the file = ["),
    "UTF-16": (GOOD.encode("utf-16"), "not UTF-8: byte 0"),
    "cut in a list": (edited("flip: true", "flip: [true"), "not valid YAML"),
    "a key twice": (edited("flip: true", "flip: true\n  flip: false"), 'duplicate key "flip"'),
    "a typo": (edited("flip: true", "flips: true"), "train.flips = True; did you mean flip?"),
    "a key is missing": (edited("flip: true", ""), "missing; params.yaml: train.flip"),
    "a text for a number": (edited("epochs: 4", "epochs: six"), "train.epochs = 'six'"),
    "true for a number": (edited("epochs: 4", "epochs: true"), "train.epochs = True"),
    "out of range": (edited("epochs: 4", "epochs: 0"), "train.epochs = 0"),
    "not a number": (edited("lr: 0.03", "lr: .nan"), "train.lr = nan"),
    "what cannot go together": (edited("sizes: [64]", "sizes: [64, 96]"), "train.grow_at = []"),
    "a path out of the project": (edited("root: images", "root: ../x"), "data.root = '../x'"),
    "a key that moves the cursor": (edited("seed: 42", '"\\x1b[2J": 1'), r"\x1b[2J = 1"),
    "a bomb of aliases": ("\n".join(BOMB).encode(), "an anchor in line 1"),
    "a tag that runs code": (
        edited("flip: true", "flip: !!python/object/apply:os.system [touch marker]"),
        "a tag in line 32",
    ),
    "nested 30,000 deep": (b"[" * 30_000, "nested more than 20 deep"),
    "30,000 digits": (b"seed: " + b"9" * 30_000, "a value of more than 2000 characters"),
    "a megabyte": (GOOD.encode() + b"#" * (1 << 20), "over 32768 bytes"),
    "a password beside a mistake": (
        edited("url: null", "urls: https://me:secret@example.org/x?key=secret"),
        "data.urls = 'https://***@example.org/x'; did you mean url?",
    ),
}


def told(folder: Path, stage: str, said: str) -> Outcome:
    """Assert that `stage`, run in `folder`, says so and does nothing."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ABN_")}
    env = kept | {"PYTHONPATH": str(ROOT)}
    before, known = time.monotonic(), sorted(folder.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    seconds = time.monotonic() - before
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error[PARAMS] ") and said in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr[:-1].isprintable(), done.stderr
    assert "secret" not in done.stderr
    assert sorted(folder.rglob("*")) == known
    return Outcome("error[PARAMS], exit 2", seconds=seconds)


def _bad(content: bytes, said: str, folder: Path, draws: random.Random) -> Outcome:
    (folder / "params.yaml").write_bytes(content)
    return told(folder, draws.choice(STAGES), said)


for _name, (_content, _said) in BAD.items():
    kind("params", _name)(partial(_bad, _content, _said))

NO_FILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "not found; params.yaml; run from the project's root"),
    "a folder": (Path.mkdir, "not a file; params.yaml"),
    "a pipe": (os.mkfifo, "not a file; params.yaml"),
    "a link in a circle": (lambda path: path.symlink_to(path), "not found; params.yaml"),
}


def _no_file(
    make: Callable[[Path], object], said: str, folder: Path, draws: random.Random
) -> Outcome:
    make(folder / "params.yaml")
    return told(folder, draws.choice(STAGES), said)


for _name, (_make, _said) in NO_FILE.items():
    kind("params", _name)(partial(_no_file, _make, _said))
