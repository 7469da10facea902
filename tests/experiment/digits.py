"""Made-up digits and a short LeNet experiment on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from caffe_bridge.cli.main import main
from caffe_bridge.data.write import write_datums
from tests.shared import REPO

FORCES = ("Constant", "Degradation")
#: One kind of force in two strengths.
ONE = [{"force_type": "Constant", "force_decay": [5e-4, 1e-3], "keep": 1e-3}]


def write_digits(folder: Path) -> None:
    """Ten blurred patterns with noise, under the names of the MNIST data bases."""
    rng = np.random.default_rng(3)
    patterns = np.kron(rng.integers(0, 2, (10, 1, 7, 7)), np.ones((4, 4))) * 180
    for name, count in (("mnist_train_lmdb", 128), ("mnist_test_lmdb", 100)):
        labels = np.arange(count) % 10
        noisy = patterns[labels] + rng.integers(0, 60, (count, 1, 28, 28))
        write_datums(folder / name, noisy.astype(np.uint8), labels, backend="lmdb")


def write_recipes(folder: Path, **changed: Any) -> None:
    """The LeNet recipe with a short experiment."""
    recipe = folder / "lenet"
    recipe.mkdir(parents=True, exist_ok=True)
    for path in (REPO / "solvers" / "lenet").glob("*.prototxt"):
        text = path.read_text().replace("test_iter: 100", "test_iter: 1")
        (recipe / path.name).write_text(text)
    data = json.loads((REPO / "solvers" / "lenet" / "experiment.json").read_text())
    data |= {
        "iterations": {"baseline": 12, "force": 8, "finetune": 6}, "tests": 2, "seeds": [1, 2],
        "schedule": {"force": {"base_lr": 0.005, "gamma": 0.1, "stepvalue": [4, 6]}},
        "sweep": [{"force_type": kind, "force_decay": [1e-4, 1e-3], "keep": 1e-3}
                  for kind in FORCES],
        "sparse": {"solver": {"breadth_decay": 0.05, "kernel_shape_decay": 0.05},
                   "threshold": 0.042},
        "bench": {"batch": 2, "threads": 1}, **changed,
    }  # fmt: skip
    (recipe / "experiment.json").write_text(json.dumps(data))


def call(place: Path, out: str, *more: str) -> int:
    return main(["reproduce", "lenet", str(place / out), "--data", str(place / "data"),
                 "--recipes", str(place / "recipes"), "--quick", *more])  # fmt: skip


def document(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())
