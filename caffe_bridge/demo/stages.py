"""Running a list of stages so that a finished one is never done twice."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_bridge.files import atomic_write

#: A stage gets the results of all stages before it and returns its own (JSON values only).
Work = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One step: its key, what to tell the user, and the work."""

    name: str
    title: str
    work: Work


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


def run_stages(
    stages: list[Stage], settings: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """Run stages in the current folder; results of finished ones are taken from ``stages/``.

    A stage is done again when the settings, the version of its inputs, or an earlier stage
    changed. Returns the results of all stages by name.
    """
    Path("stages").mkdir(exist_ok=True)
    results: dict[str, Any] = {}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    for number, stage in enumerate(stages, 1):
        key = hashlib.sha256(f"{key}/{stage.name}".encode()).hexdigest()
        path = Path("stages") / f"{number:02d}_{stage.name}.json"
        stored = _load(path, key)
        head = f"[{number}/{len(stages)}] {stage.title}"
        if stored is not None:
            say(f"{head}: already done ({stored['seconds']:.1f} s)")
            results[stage.name] = stored["result"]
            continue
        say(f"{head} ...")
        for later in Path("stages").glob("*.json"):
            if int(later.name[:2]) >= number:
                later.unlink()
        started = time.monotonic()
        result = stage.work(results)
        seconds = time.monotonic() - started
        write_json(path, {"key": key, "seconds": seconds, "result": result})
        results[stage.name] = json.loads(json.dumps(result))
        say(f"{head}: {result.get('headline', 'done')} ({seconds:.1f} s)")
    return results
