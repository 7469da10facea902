"""The data of the demo: 1,797 real handwritten digits (UCI, shipped inside scikit-learn).

8x8 pixels of 0..16, written to LMDB as Caffe's own tools store datums; the split is fixed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from caffe_bridge.data.write import write_datums

#: Number of test digits; the rest trains.
TEST_COUNT = 500
#: Seed of the fixed split.
SPLIT_SEED = 2017


def write_digits(folder: Path) -> dict[str, int]:
    """Write ``train_lmdb`` and ``test_lmdb`` into a folder; returns their sizes."""
    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    labels = digits.target.astype(int)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    parts = {"test_lmdb": order[:TEST_COUNT], "train_lmdb": order[TEST_COUNT:]}
    for name, chosen in parts.items():
        write_datums(folder / name, images[chosen], labels[chosen], backend="lmdb")
    return {name: len(chosen) for name, chosen in parts.items()}
