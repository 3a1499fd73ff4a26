"""The network's thread: questions that wait at the same time are one batch; nothing is lost."""

import threading
from collections.abc import Callable, Sequence

import pytest

from abn.inference.server.worker import Worker


class Network:
    """Answers with the question; its first batch waits until it may go on."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self, questions: Sequence[object]) -> Sequence[object]:
        self.sizes.append(len(questions))
        self.began.set()
        assert self.go.wait(30)
        if "bad" in questions:
            raise MemoryError("full")
        return questions


def started(network: Callable[..., object], most: int) -> Worker:
    worker = Worker(network, most, wait=0.0)  # type: ignore[arg-type]
    worker.start()
    return worker


def test_what_waits_while_the_network_is_busy_is_answered_in_batches_in_order() -> None:
    network = Network()
    worker = started(network, most=3)
    first = worker.ask("first")  # type: ignore[arg-type]
    assert network.began.wait(30)
    others = [worker.ask(i) for i in range(5)]  # type: ignore[arg-type]
    network.go.set()
    assert first.result(30) == "first"
    assert [other.result(30) for other in others] == [0, 1, 2, 3, 4]
    assert network.sizes == [1, 3, 2]
    worker.stop()
    assert not worker.alive


def test_stop_answers_what_was_asked_before() -> None:
    network = Network()
    worker = started(network, most=1)
    answers = [worker.ask(i) for i in range(4)]  # type: ignore[arg-type]
    network.go.set()
    worker.stop()
    assert [answer.result(0) for answer in answers] == [0, 1, 2, 3]


def test_a_question_that_nobody_waits_for_is_not_asked_and_an_error_ends_no_thread() -> None:
    network = Network()
    worker = started(network, most=1)
    worker.ask("first")  # type: ignore[arg-type]
    assert network.began.wait(30)
    cancelled, bad, good = (worker.ask(name) for name in ("gone", "bad", "good"))  # type: ignore[arg-type]
    cancelled.cancel()
    network.go.set()
    with pytest.raises(MemoryError, match="full"):
        bad.result(30)
    assert good.result(30) == "good"
    assert network.sizes == [1, 1, 1]
    worker.stop()
