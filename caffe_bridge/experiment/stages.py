"""Running a list of stages so that a finished one is never done twice."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
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
    """

    name: str
    title: str
    work: Work
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] | None = None


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


def run_stages(
    stages: list[Stage], settings: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """Run stages in the current folder; results of finished ones are taken from ``stages/``.

    A stage is done again when the settings, its own settings, or a stage that it needs changed.
    Returns the results of all stages by name.
    """
    Path("stages").mkdir(exist_ok=True)
    needs = {
        stage.name: stage.needs if stage.needs is not None else tuple(s.name for s in stages[:i])
        for i, stage in enumerate(stages)
    }
    results: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for number, stage in enumerate(stages, 1):
        before = [keys[name] for name in needs[stage.name]]
        key = keys[stage.name] = _digest(settings, stage.name, dict(stage.settings), before)
        path = _file(stage.name)
        stored = _load(path, key)
        head = f"[{number}/{len(stages)}] {stage.title}"
        if stored is not None:
            say(f"{head}: already done ({stored['seconds']:.1f} s)")
            results[stage.name] = stored["result"]
            continue
        say(f"{head} ...")
        # What rests on the old result goes first: a run that is cut off leaves nothing stale.
        stale = {stage.name}
        for later in stages[number:]:
            if stale & set(needs[later.name]):
                stale.add(later.name)
        for name in stale:
            _file(name).unlink(missing_ok=True)
        started = time.monotonic()
        result = stage.work(results)
        seconds = time.monotonic() - started
        write_json(path, {"key": key, "seconds": seconds, "result": result})
        results[stage.name] = json.loads(json.dumps(result))
        say(f"{head}: {result.get('headline', 'done')} ({seconds:.1f} s)")
    return results


def stage_seconds(stages: list[Stage]) -> dict[str, float]:
    """Wall-clock seconds of every finished stage, by name."""
    return {
        stage.name: json.loads(_file(stage.name).read_text(encoding="utf-8"))["seconds"]
        for stage in stages
        if _file(stage.name).exists()
    }
