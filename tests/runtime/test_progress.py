"""Bars: one line that is redrawn on a terminal, plain lines in a log."""

import io
from collections.abc import Callable
from contextlib import redirect_stderr

from abn.runtime import progress


class Screen(io.StringIO):
    """A stderr that is a terminal or a file."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def stderr_of(work: Callable[[], object], terminal: bool = False) -> str:
    """What `work` writes to stderr."""
    with redirect_stderr(Screen(terminal)) as screen:
        work()
    return screen.getvalue()


def pack(count: int) -> None:
    with progress.bar("packing", count, "image") as bar:
        for _ in progress.counted(range(count), bar):
            pass


def say_during_a_bar() -> None:
    with progress.bar("packing", 3, "image"):
        progress.say("hello")


def fetch() -> None:
    with progress.bar("archive.tgz", 3 * 2**20, "B") as bar:
        bar.update(3 * 2**20)


def test_counted_yields_every_item_and_advances_the_bar():
    with progress.bar("packing", 3, "image") as bar:
        seen = [(item, bar.n) for item in progress.counted("abc", bar)]
        assert seen == [("a", 0), ("b", 1), ("c", 2)]
        assert bar.n == 3


def test_a_log_gets_lines_with_the_label_up_to_the_total():
    text = stderr_of(lambda: pack(3))
    assert text.endswith("\n") and "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert all(line.startswith("packing: ") for line in lines)
    assert " 0/3 " in lines[0] and " 3/3 " in lines[-1]


def test_a_log_does_not_get_a_line_for_every_item():
    assert len(stderr_of(lambda: pack(1000)).splitlines()) < 10


def test_a_line_printed_during_a_bar_is_a_line_of_the_log():
    text = stderr_of(say_during_a_bar)
    assert "hello" in text.splitlines()
    assert "\r" not in text


def test_a_terminal_gets_one_line_that_is_redrawn_and_then_cleared():
    text = stderr_of(lambda: pack(3), terminal=True)
    assert "\n" not in text
    assert "packing:" in text
    assert text.split("\r")[-2].strip() == ""


def test_a_line_printed_during_a_bar_clears_the_bar_of_a_terminal_first():
    assert "\rhello\n" in stderr_of(say_during_a_bar, terminal=True)


def test_bytes_are_counted_in_powers_of_1024():
    assert "3.00M/3.00M" in stderr_of(fetch)
