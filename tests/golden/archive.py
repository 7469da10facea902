"""Numbers computed by a real Caffe: what is in the archive, and how far ours are from them.

``golden.zip`` holds ``layers/``, ``nets/`` and ``solvers/``. A case has ``net.prototxt``,
``meta.json`` and ``io.npz`` with the keys ``in/<blob>``, ``out/<blob>``, ``topdiff/<blob>``,
``indiff/<blob>``, ``paramdiff/<layer>/<i>`` and ``param_after/<layer>/<i>``.
"""

from __future__ import annotations

import functools
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ARCHIVE = Path(__file__).with_name("golden.zip")
#: Largest error that passes: float32 sums in another order.
BOUND = 1e-4

Array = np.ndarray


@functools.cache
def _entries() -> list[str]:
    with zipfile.ZipFile(ARCHIVE) as archive:
        return archive.namelist()


def case_names(folder: str, marker: str = "meta.json") -> list[str]:
    """Names of the cases in a folder of the archive: those that have the marker file."""
    parts = [entry.split("/") for entry in _entries()]
    return sorted(p[1] for p in parts if len(p) == 3 and p[0] == folder and p[2] == marker)


def extract(target: Path) -> Path:
    """Unpack the whole archive; returns ``target``."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(target)
    return target


@dataclass(frozen=True)
class Case:
    """One case with its arrays by kind: ``arrays("in")`` gives ``{"x": ...}``."""

    path: Path
    meta: dict[str, Any]
    values: dict[str, Array]

    @property
    def net(self) -> Path:
        """The prototxt."""
        return self.path / "net.prototxt"

    @property
    def weights(self) -> Path | None:
        """The caffemodel, if the case has parameters."""
        return self.path / "weights.caffemodel" if self.meta["has_params"] else None

    def arrays(self, kind: str) -> dict[str, Array]:
        """Arrays of one kind by what follows the first slash."""
        start = f"{kind}/"
        return {k.removeprefix(start): v for k, v in self.values.items() if k.startswith(start)}


def load(folder: Path) -> Case:
    """Read an unpacked case."""
    with np.load(folder / "io.npz") as stored:
        values = {name: stored[name] for name in stored.files}
    return Case(folder, json.loads((folder / "meta.json").read_text()), values)


def error(got: Any, want: Array) -> float:
    """``max|got - want| / max(1e-3, max|want|)``; infinite where the shapes or NaNs differ."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        return float("inf")
    if not want.size:
        return 0.0
    gap = float(np.abs(got - want).max())
    return gap / max(1e-3, float(np.abs(want).max())) if np.isfinite(gap) else float("inf")


def require(errors: dict[str, float], bound: float = BOUND) -> None:
    """Fail with every array that is beyond the bound."""
    assert errors, "nothing was compared"
    wrong = {key: value for key, value in errors.items() if not value <= bound}
    assert not wrong, wrong
