"""Events on disk: whole lines or none, one owner at a time, and nothing that grows for ever."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from abn import journal
from abn.journal import Event, Head, Writer

HEAD = Head(store="mlflow.db", key={"weights": "0123"}, name="resnet18-s0", began=5)
HELD = """
import sys, time
from pathlib import Path
from abn import journal
with journal.claim(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    sys.stdin.read()
"""


def told(path: Path) -> list[Event]:
    return journal.read(path)[0]


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "tracking", HEAD)


def test_what_is_added_is_read_back(writer: Writer) -> None:
    events = [
        Event(time=7, points={"loss": 0.1, "odd": float("inf")}, step=0),
        Event(time=8, params={"a": "line\nbreak"}, tags={"b": "ü"}, backfill=True),
        Event(time=9, end="FINISHED"),
    ]
    for event in events:
        writer.add(event)
    assert told(writer.path) == events
    assert journal.head(writer.path) == HEAD


def test_reading_goes_on_where_it_was_and_a_line_that_is_not_whole_waits(writer: Writer) -> None:
    writer.add(Event(time=1))
    events, end = journal.read(writer.path)
    with writer.path.open("ab") as file:
        file.write(b'\n{"time":2')
    assert journal.read(writer.path, end)[0] == []
    with writer.path.open("ab") as file:
        file.write(b"}\n")
    assert len(events) == 1 and journal.read(writer.path, end)[0] == [Event(time=2)]


def test_what_a_full_disk_cut_off_spoils_no_line_after_it(writer: Writer) -> None:
    with writer.path.open("ab") as file:
        file.write(b'\n{"time":1,"points":{"lo')
    writer.add(Event(time=2))
    assert told(writer.path) == [Event(time=2)]


def test_no_bytes_stop_the_reading(writer: Writer) -> None:
    for number in range(20):
        writer.add(Event(time=number, points={"loss": number / 3}, step=number))
    whole, draws = writer.path.read_bytes(), random.Random(0)
    for _ in range(300):
        torn = bytearray(whole)
        for _ in range(draws.randrange(1, 20)):
            torn[draws.randrange(len(torn))] = draws.randrange(256)
        writer.path.write_bytes(torn[: draws.randrange(len(torn))])
        assert len(told(writer.path)) <= 20
        journal.head(writer.path)


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"null",
        b'{"time":1,"points":{"loss":"0.5"}}',
        b'{"time":99999999999999999999}',
        b'{"time":1,"unknown":1}',
        b'{"time":1,"step":-1}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_event_is_left_out(writer: Writer, line: bytes) -> None:
    with writer.path.open("ab") as file:
        file.write(line + b"\n")
    writer.add(Event(time=2))
    assert told(writer.path) == [Event(time=2)]


def test_a_journal_has_one_owner_at_a_time_and_is_free_once_it_dies(writer: Writer) -> None:
    with journal.claim(writer.path) as ours:
        assert not ours  # its writer lives
    writer.close()
    words = [sys.executable, "-c", HELD, str(writer.path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout and other.stdout.readline() == "True\n"
        with journal.claim(writer.path) as ours:
            assert not ours
        other.kill()
    with journal.claim(writer.path) as ours:
        assert ours


def test_one_that_is_gone_is_nobodys(tmp_path: Path) -> None:
    with journal.claim(tmp_path / "1.jsonl") as ours:
        assert not ours
    assert journal.head(tmp_path / "1.jsonl") is None


def test_the_oldest_comes_first_and_what_has_no_head_not_at_all(tmp_path: Path) -> None:
    paths = [Writer(tmp_path, HEAD).path for _ in range(3)]
    (tmp_path / "0.jsonl").write_bytes(b'\n{"store":"mlf')
    assert [path for path, _ in journal.heads(tmp_path)] == paths


def test_a_full_journal_says_so(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    size = writer.path.stat().st_size
    with pytest.raises(OSError, match="all it may hold"):
        journal.append(writer.file, Event(time=1), limit=size + 5)
    assert writer.path.stat().st_size == size


def test_a_journal_that_cannot_begin_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, head: Head) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(journal, "append", refuse)
    with pytest.raises(OSError):
        Writer(tmp_path, HEAD)
    assert list(tmp_path.iterdir()) == []


def test_a_kept_file_stays_as_it_was_until_the_journal_goes(writer: Writer, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("first")
    kept = writer.keep(report)
    new = tmp_path / "new"
    new.write_text("second")
    new.replace(report)
    assert (kept.name, kept.read_text()) == ("report.html", "first")
    journal.remove(writer.path)
    assert not kept.exists() and not writer.path.exists() and report.exists()


def test_a_file_on_another_disk_is_copied(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a.png").write_bytes(b"picture")
    assert writer.keep(tmp_path / "a.png").read_bytes() == b"picture"
