"""Downloading and packing, killed, stopped or done twice at once: the same bytes, nothing left."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import Outcome, _stage, kind
from tests.faults._disk import left
from tests.faults._packing import BODY, SHAPES, digests, download, downloading, pack_into
from tests.servers import hang, serving


@kind("interrupted", "killed while it downloads")
def killed_download(folder: Path, draws: random.Random) -> Outcome:
    """The same command goes on from what is there."""
    cache = folder / "cache"
    with serving(BODY) as server:
        server.script = [hang(BODY, draws.randrange(len(BODY)))]
        victim = downloading(server.url, folder)
        wait((cache / "set.tgz.part").exists)
        time.sleep(draws.uniform(0, 0.05))
        victim.kill()
        victim.communicate()
        assert left(folder) == ["set.tgz.lock", "set.tgz.part"], left(folder)
        start = time.monotonic()
        download(server, folder)
    assert (cache / "set.tgz").read_bytes() == BODY and left(folder) == ["set.tgz"]
    return Outcome("the same bytes", seconds=time.monotonic() - start)


def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


def packing(folder: Path, *before: str) -> tuple[Path, "subprocess.Popen[str]"]:
    """The stage, begun to pack."""
    project = _stage.project(folder / "project", shapes=SHAPES)
    process = _stage.start(project, *before)
    wait((project / "data" / "train.safetensors.part").exists)
    return project, process


@kind("interrupted", "killed while it packs")
def killed_pack(folder: Path, draws: random.Random) -> Outcome:
    project, victim = packing(folder)
    time.sleep(draws.uniform(0, 0.3))
    victim.kill()
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL and _stage.leftovers(project), "it was not packing"
    start = time.monotonic()
    assert _stage.run(project)[0] == 0
    seconds = time.monotonic() - start
    pack_into(folder / "right")
    assert digests(project / "data") == digests(folder / "right")
    assert not _stage.leftovers(project)
    return Outcome("the same bytes", seconds=seconds)


@kind("interrupted", "stopped while it packs")
def stopped_pack(folder: Path, draws: random.Random) -> Outcome:
    """By Ctrl-C or SIGTERM: its own exit code, nothing left."""
    stop, code = draws.choice([(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    project, victim = packing(folder, "env", "--default-signal=INT")  # else inherited as ignored
    time.sleep(draws.uniform(0, 0.2))
    start = time.monotonic()
    victim.send_signal(stop)
    _, said = victim.communicate(timeout=20)
    seconds = time.monotonic() - start
    assert victim.returncode == code and "Traceback" not in said, said
    assert not _stage.outputs(project) and not _stage.leftovers(project)
    return Outcome("exit 130 or 143", seconds=seconds)


@kind("interrupted", "two stages at once", slow=True)
def two(folder: Path, draws: random.Random) -> Outcome:
    """The second waits and does it again."""
    project, first = packing(folder)
    start = time.monotonic()
    assert _stage.run(project)[0] == 0
    first.communicate()
    seconds = time.monotonic() - start
    assert first.returncode == 0 and not _stage.leftovers(project)
    pack_into(folder / "right")
    assert digests(project / "data") == digests(folder / "right")
    return Outcome("the same bytes", seconds=seconds)
