"""Trainings in this process, or several at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from caffe_bridge.experiment.train import Job, Progress, train


class Trainer(Protocol):
    """What trains a net."""

    def __call__(self, job: Job) -> dict[str, Any]:
        """Train; see :func:`caffe_bridge.experiment.train.train`."""


#: The queue to the parent, in a worker process.
_news: Any = None


def _prepare(queue: Any) -> None:
    global _news
    _news = queue


def _work(job: Job) -> dict[str, Any]:
    os.chdir(job.place)
    return train(job, lambda *news: _news.put(news))


@contextmanager
def trainer(jobs: int, progress: Progress) -> Iterator[Trainer]:
    """What trains nets for as long as the context lasts.

    Args:
        jobs: 1 trains in this process; more let that many threads train at a time, each
            training in its own process with one thread.
        progress: told how the trainings go on, with the folder as title.
    """
    if jobs == 1:
        yield lambda job: train(job, progress)
        return
    # Spawned, because torch does not survive a fork once it has threads or a GPU.
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        queue = manager.Queue()

        def listen() -> None:
            while (news := queue.get()) is not None:
                progress(*news)

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        pool = ProcessPoolExecutor(jobs, context, _prepare, (queue,))
        try:
            yield lambda job: pool.submit(_work, replace(job, place=str(Path.cwd()))).result()
        finally:
            pool.shutdown(cancel_futures=True)
            queue.put(None)
            listener.join()
