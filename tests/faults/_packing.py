"""Downloading and packing, small, here or in a process of its own."""

import hashlib
import random
import subprocess
import sys
from pathlib import Path

from abn.datasets.fetch import fetch

from abn.datasets import pack
from tests.faults import _stage
from tests.servers import Server

BODY = random.Random(0).randbytes(2_000_000)
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
SHAPES = _stage.config().shapes.model_copy(update={"train": 600, "val": 50})
DATA = _stage.config(shapes=SHAPES)
PACKED = 650 * (32 * 32 * 4)  # bytes of both files, at least

FETCH = """
import sys
from pathlib import Path
from abn.datasets.fetch import fetch
from abn.runtime.errors import UserError
try:
    fetch(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
except UserError as error:
    sys.exit(error.line())
"""


def download(server: Server, folder: Path, size: int | None = None) -> None:
    fetch(server.url, folder / "cache" / "set.tgz", MD5, size)


def downloading(url: str, folder: Path, *before: str) -> "subprocess.Popen[str]":
    """The same in a process; `before` is a command that runs it."""
    command = [*before, sys.executable, "-c", FETCH, url, str(folder / "cache" / "set.tgz"), MD5]
    env = _stage.environment()
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def pack_into(folder: Path) -> None:
    source = pack.open_source(DATA, folder)
    pack.pack(source, DATA.size, {s: folder / f"{s}.safetensors" for s in source.counts})


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
