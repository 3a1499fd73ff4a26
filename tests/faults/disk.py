"""Disks that are full, small, read-only or failing: one error, nothing half-written."""

import random
import shutil
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.faults import NotHere, Outcome, kind
from tests.faults._disk import left, limited, on_disk, told
from tests.faults._packing import BODY, PACKED, digests, download, downloading, pack_into
from tests.servers import serving

UNSIZED = b"HTTP/1.0 200 OK\r\n\r\n" + BODY


@kind("disk", "no room for the download")
def no_room(folder: Path, draws: random.Random) -> Outcome:
    disk = folder / "disk"

    def work() -> None:
        with serving(BODY) as server, told("2,000,000 bytes are needed", disk):
            download(server, disk, len(BODY))

    on_disk(disk, 1 << 20, work)
    return Outcome("error[DISK] before the first byte")


@kind("disk", "full during the download")
def full_download(folder: Path, draws: random.Random) -> Outcome:
    """Nobody says how large the file is; once there is room, the same call brings it."""
    disk = folder / "disk"

    def work() -> None:
        disk.joinpath("hog").write_bytes(bytes(draws.randrange(2 << 20, 3 << 20)))
        with serving(BODY) as server:
            server.otherwise = lambda handler: handler.wfile.write(UNSIZED)
            with told("No space left on device", disk):
                download(server, disk)
            (disk / "hog").unlink()
            download(server, disk)
        assert left(disk) == ["set.tgz"]

    on_disk(disk, 3 << 20, work)
    return Outcome("error[DISK], then the same bytes")


@kind("disk", "no room to pack")
def no_room_to_pack(folder: Path, draws: random.Random) -> Outcome:
    disk = folder / "disk"

    def work() -> None:
        with told("bytes are needed", disk):
            pack_into(disk)

    on_disk(disk, PACKED // 2, work)
    return Outcome("error[DISK] before the first image")


@kind("disk", "full while packing")
def full_pack(folder: Path, draws: random.Random) -> Outcome:
    """Another process takes the room meanwhile; once it is free again, the same call packs."""
    disk = folder / "disk"
    pack_into(folder / "right")

    def hog() -> None:
        while not (disk / "train.safetensors.part").exists():
            time.sleep(0.001)
        with suppress(OSError), (disk / "hog").open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass

    def work() -> None:
        thread = threading.Thread(target=hog)
        thread.start()
        with told("No space left on device", disk):
            pack_into(disk)
        thread.join()
        (disk / "hog").unlink()
        pack_into(disk)
        assert digests(disk) == digests(folder / "right")

    on_disk(disk, PACKED + (1 << 20), work)
    return Outcome("error[DISK], then the same bytes")


@kind("disk", "read-only")
def read_only(folder: Path, draws: random.Random) -> Outcome:
    disk = folder / "disk"

    def work() -> None:
        with serving(BODY) as server, told("Read-only file system", disk):
            download(server, disk)
        with told("Read-only file system", disk):
            pack_into(disk)

    on_disk(disk, 1 << 20, work, read_only=True)
    return Outcome("error[DISK]")


@kind("disk", "a download larger than a file may be")
def large_download(folder: Path, draws: random.Random) -> Outcome:
    with serving(BODY) as server:
        with limited(1 << 20), told("File too large", folder):
            download(server, folder)
        download(server, folder)
    assert left(folder) == ["set.tgz"]
    return Outcome("error[DISK], then the same bytes")


@kind("disk", "a packed file larger than a file may be")
def large_pack(folder: Path, draws: random.Random) -> Outcome:
    with limited(PACKED // 2), told("File too large", folder):
        pack_into(folder)
    return Outcome("error[DISK]")


def failing(call: str, when: int, error: str, kept: list[str], folder: Path, draws: random.Random):
    """A system call of a download fails; the next call finds or brings the file."""
    if not shutil.which("strace"):
        raise NotHere("strace is not installed")
    inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    inject += ["-e", f"inject={call}:error={error}:when={when}"]
    with serving(BODY) as server:
        process = downloading(server.url, folder, *inject)
        said = process.communicate(timeout=60)[1].rstrip().rpartition("\n")[2]
        if "ptrace" in said:
            raise NotHere("may not trace a process")
        assert said.startswith("error[DISK] cannot be written: "), said
        assert left(folder) == kept
        start = time.monotonic()
        download(server, folder)
    assert (folder / "cache" / "set.tgz").read_bytes() == BODY and left(folder) == ["set.tgz"]
    return Outcome("error[DISK], then the same bytes", seconds=time.monotonic() - start)


FAILING: dict[str, tuple[str, int, str, list[str]]] = {
    "the file cannot be synced": ("fsync", 1, "EIO", []),
    "the file cannot be renamed": ("rename", 1, "ENOSPC", []),
    "the folder cannot be synced": ("fsync", 2, "EIO", ["set.tgz"]),
}
for name, arguments in FAILING.items():
    kind("disk", name)(partial(failing, *arguments))
