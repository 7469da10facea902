"""Running a list of stages so that a finished one is never done twice."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caffe_bridge.files import atomic_write

#: A stage gets the results of all stages before it and returns its own (JSON values only).
Work = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One step.

    Attributes:
        name: key of its result, and name of its file in ``stages/``.
        title: what the user is told.
        work: makes the result.
        settings: what changes this stage's result beside the settings of the whole run.
        needs: stages whose results it uses; all earlier ones when None.
        parallel: whether others of its kind may run at the same time.
        alone: whether nothing else may run meanwhile, because it measures time.
    """

    name: str
    title: str
    work: Work
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] | None = None
    parallel: bool = False
    alone: bool = False


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, so that the files written there name each other by relative paths."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _load(path: Path, key: str) -> dict[str, Any] | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(stored, dict) or stored.get("key") != key:
        return None
    return stored


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write((json.dumps(value, indent=1) + "\n").encode())


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _file(name: str) -> Path:
    return Path("stages") / f"{name}.json"


#: A result and how many seconds it took.
_Timed = tuple[dict[str, Any], float]


def _timed(work: Work, results: dict[str, Any]) -> _Timed:
    started = time.monotonic()
    return work(results), time.monotonic() - started


class _Runner:
    """Runs what is ready; see :func:`run_stages`."""

    def __init__(self, stages: list[Stage], settings: dict[str, Any], say: Callable[[str], None],
                 jobs: int) -> None:  # fmt: skip
        self.stages, self.say, self.jobs = stages, say, jobs
        self.needs = {
            stage.name: stage.needs if stage.needs is not None else tuple(
                s.name for s in stages[:i]
            )
            for i, stage in enumerate(stages)
        }  # fmt: skip
        self.keys: dict[str, str] = {}
        for stage in stages:
            before = [self.keys[name] for name in self.needs[stage.name]]
            self.keys[stage.name] = _digest(settings, stage.name, dict(stage.settings), before)
        self.results: dict[str, Any] = {}
        self.running: dict[Future[_Timed], Stage] = {}
        self.started: set[str] = set()
        self.failure: BaseException | None = None

    def _head(self, stage: Stage) -> str:
        return f"[{self.stages.index(stage) + 1}/{len(self.stages)}] {stage.title}"

    def _known(self, stage: Stage) -> bool:
        """Whether the result of a finished stage could be taken."""
        stored = _load(_file(stage.name), self.keys[stage.name])
        if stored is None:
            return False
        self.say(f"{self._head(stage)}: already done ({stored['seconds']:.1f} s)")
        self.results[stage.name] = stored["result"]
        return True

    def _begin(self, stage: Stage) -> None:
        self.say(f"{self._head(stage)} ...")
        # What rests on the old result goes first: a run that is cut off leaves nothing stale.
        stale = {stage.name}
        for later in self.stages:
            if stale & set(self.needs[later.name]):
                stale.add(later.name)
        for name in stale:
            _file(name).unlink(missing_ok=True)

    def _end(self, stage: Stage, timed: _Timed) -> None:
        result, seconds = timed
        kept = {"key": self.keys[stage.name], "seconds": seconds, "result": result}
        write_json(_file(stage.name), kept)
        self.results[stage.name] = json.loads(json.dumps(result))
        self.say(f"{self._head(stage)}: {result.get('headline', 'done')} ({seconds:.1f} s)")

    def _collect(self) -> None:
        """Wait for a running stage."""
        done, _ = wait(self.running, return_when=FIRST_COMPLETED)
        for future in done:
            stage = self.running.pop(future)
            error = future.exception()
            if error is None:
                self._end(stage, future.result())
            elif self.failure is None:
                self.failure = error
                self.say(f"{self._head(stage)}: failed; waiting for {len(self.running)} others")

    def _next(self) -> Stage | None:
        """The first stage that can be started now."""
        for stage in self.stages:
            if stage.name in self.started or not self.results.keys() >= set(self.needs[stage.name]):
                continue
            if (stage.alone and self.running) or (
                stage.parallel and len(self.running) >= self.jobs
            ):
                continue
            return stage
        return None

    def _step(self, stage: Stage, pool: ThreadPoolExecutor) -> None:
        """Start a stage, or run it here."""
        self.started.add(stage.name)
        if self._known(stage):
            return
        self._begin(stage)
        if stage.parallel and self.jobs > 1:
            self.running[pool.submit(_timed, stage.work, dict(self.results))] = stage
        else:
            self._end(stage, _timed(stage.work, self.results))

    def run(self) -> dict[str, Any]:
        with ThreadPoolExecutor(self.jobs) as pool:
            while len(self.results) < len(self.stages):
                stage = self._next() if self.failure is None else None
                if stage is None and not self.running:
                    break
                try:
                    if stage is None:
                        self._collect()
                    else:
                        self._step(stage, pool)
                except Exception as error:
                    # What runs beside a failure is finished and kept.
                    self.failure = self.failure or error
        if self.failure is not None:
            raise self.failure
        return {stage.name: self.results[stage.name] for stage in self.stages}


def run_stages(
    stages: list[Stage], settings: dict[str, Any], say: Callable[[str], None], jobs: int = 1
) -> dict[str, Any]:
    """Run stages in the current folder; results of finished ones are taken from ``stages/``.

    A stage is done again when the settings, its own settings, or a stage that it needs changed.

    Args:
        stages: each after those that it needs.
        settings: what changes all results.
        say: told about every stage.
        jobs: how many of the parallel stages run at a time, each in a thread of its own.

    Returns:
        The results of all stages by name.
    """
    Path("stages").mkdir(exist_ok=True)
    return _Runner(stages, settings, say, jobs).run()


def stage_seconds(stages: list[Stage]) -> dict[str, float]:
    """Wall-clock seconds of every finished stage, by name."""
    return {
        stage.name: json.loads(_file(stage.name).read_text(encoding="utf-8"))["seconds"]
        for stage in stages
        if _file(stage.name).exists()
    }
