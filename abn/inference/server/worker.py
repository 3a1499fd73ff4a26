"""One thread that runs the network; what several requests ask at about the same time is one batch.

Pictures wait for `wait` seconds at most for others to come. So one client pays a few milliseconds,
and many share one pass.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from abn.inference.picture import Picture
from abn.inference.prediction import Prediction

Map = NDArray[np.float32]


class Question(NamedTuple):
    """What one request asks of the network."""

    picture: Picture
    attention: Map | None  # in the place of the network's own map


class _Job(NamedTuple):
    question: Question
    answer: "Future[Prediction]"


Answer = Callable[[Sequence[Question]], Sequence[Prediction]]


class Worker:
    """The thread; between `start` and `stop`, `ask` may be called from any other."""

    def __init__(self, answer: Answer, most: int, wait: float) -> None:
        """`answer` takes up to `most` questions, collected for `wait` seconds."""
        self._answer, self._most, self._wait = answer, most, wait
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()  # None: stop
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer what was asked, then end."""
        self._jobs.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether questions are answered."""
        return self._thread.is_alive()

    def ask(self, question: Question) -> "Future[Prediction]":
        """The answer to come; cancel it where nobody waits for it any more."""
        job = _Job(question, Future())
        self._jobs.put(job)
        return job.answer

    def _run(self) -> None:
        running = True
        while running:
            batch, running = self._collect()
            wanted = [job for job in batch if job.answer.set_running_or_notify_cancel()]
            if wanted:
                self._reply(wanted)

    def _collect(self) -> tuple[list[_Job], bool]:
        """The next jobs, and whether more are to come."""
        batch: list[_Job] = []
        end: float | None = None  # of the waiting, which the first job begins
        while len(batch) < self._most:
            try:
                left = None if end is None else max(0.0, end - time.monotonic())
                job = self._jobs.get(timeout=left)
            except queue.Empty:
                break
            if job is None:
                return batch, False
            batch.append(job)
            end = end or time.monotonic() + self._wait
        return batch, True

    def _reply(self, jobs: Sequence[_Job]) -> None:
        try:
            answers = self._answer([job.question for job in jobs])
        except Exception as error:  # of the device, as full memory; the next batch may pass
            for job in jobs:
                job.answer.set_exception(error)
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.answer.set_result(answer)
