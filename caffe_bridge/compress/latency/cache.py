"""Times that were measured before, in a JSON file.

::

    {"schema_version": 2,
     "machines": {"AMD EPYC | avx2 fma avx512f | onnxruntime 1.20.0 | cpu | threads 2":
                  {"Convolution 10x96x27x27 n256 k5x5 s1x1 p2x2 d1x1 g2 | pca 64":
                   {"ms": 3.21, "ratio": 0.31, "spread": 1.04}}}}

A time is looked up by everything that it depends on: processor and its flags, version of the
runtime, device and threads; type of the layer, its batch, input shape and parameters; form and
rank. ``ratio`` is the time over that of the whole layer in the same run, ``spread`` the 90 %
quantile of that ratio over its median. An unstable entry is never kept nor believed, and files of
an older schema count as empty.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from caffe_bridge.bench import machine_info
from caffe_bridge.compress.latency.together import Timed
from caffe_bridge.errors import SchemaError
from caffe_bridge.files import atomic_write

_VERSION = 2


def default_path() -> Path:
    """``caffe_bridge/latency.json`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "caffe_bridge" / "latency.json"


def machine_key(threads: int, device: str) -> str:
    """What a time depends on besides the layer."""
    machine = machine_info()
    runtime = f"onnxruntime {machine.versions['onnxruntime']}"
    flags = " ".join(machine.flags)
    return " | ".join((machine.cpu, flags, runtime, device, f"threads {threads}"))


def _usable(data: Any) -> bool:
    return (
        isinstance(data, dict)
        and data.get("schema_version") == _VERSION
        and isinstance(data.get("machines"), dict)
        and all(isinstance(entries, dict) for entries in data["machines"].values())
    )


def _old(data: Any) -> bool:
    version = data.get("schema_version") if isinstance(data, dict) else None
    return isinstance(version, int) and 0 < version < _VERSION


def _timed(value: Any) -> Timed | None:
    """What an entry says, or None where it says nothing that can be believed."""
    if not isinstance(value, dict):
        return None
    numbers: list[Any] = [value.get(name) for name in ("ms", "ratio", "spread")]
    if any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in numbers):
        return None
    if not all(math.isfinite(x) and x > 0 for x in numbers):
        return None
    found = Timed(*numbers)
    return None if found.unstable else found


class LatencyCache:
    """Times by layer and form, for one machine, device and number of threads.

    Args:
        path: the JSON file; None keeps nothing beyond the process.
        threads: threads of one operator.
        device: "cpu" or "cuda".
        export_for: the target of the exports that were timed.

    Raises:
        SchemaError: the file is no such cache.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, threads: int, device: str,
        export_for: str = "portable",
    ) -> None:  # fmt: skip
        self.path = None if path is None else Path(path)
        self.key = machine_key(threads, device)
        if export_for != "portable":
            self.key += f" | {export_for}"
        self.hits = 0
        self._fresh: dict[str, dict[str, float]] = {}
        self._known = dict(self._read().get(self.key, {}))

    def _read(self) -> dict[str, dict[str, Any]]:
        if self.path is None or not self.path.exists():
            return {}
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SchemaError(
                f"{self.path}: is no readable latency cache ({error}); delete it or give another "
                "--cache."
            ) from error
        if _old(data):
            return {}
        if not _usable(data):
            raise SchemaError(
                f"{self.path}: is no latency cache of this version; delete it or give another "
                "--cache."
            )
        found: dict[str, dict[str, Any]] = data["machines"]
        return found

    def get(self, entry: str) -> Timed | None:
        """The time of an entry, or None if it was never measured well."""
        found = _timed(self._known.get(entry))
        self.hits += found is not None
        return found

    def put(self, entry: str, timed: Timed) -> None:
        """Remember a time until :meth:`save`, and after it in the file; not an unstable one."""
        if timed.unstable:
            return
        values = {"ms": timed.ms, "ratio": timed.ratio, "spread": timed.spread}
        self._known[entry] = self._fresh[entry] = {n: round(x, 5) for n, x in values.items()}

    def save(self) -> None:
        """Add the new times to the file; those that others added meanwhile stay.

        Raises:
            SchemaError: the folder cannot be made or written.
        """
        if self.path is None or not self._fresh:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SchemaError(
                f"{self.path.parent}: cannot make this folder ({error.strerror}); give another "
                "--cache."
            ) from error
        machines = self._read()
        machines.setdefault(self.key, {}).update(self._fresh)
        text = json.dumps({"schema_version": _VERSION, "machines": machines}, indent=1)
        with atomic_write(self.path) as stream:
            stream.write(text.encode("utf-8"))
        self._fresh.clear()
