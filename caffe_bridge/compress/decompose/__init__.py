"""Ways to split a layer into cheaper ones; found automatically, one file each."""

from caffe_bridge.compress.decompose.base import (
    DECOMPOSITIONS,
    DEPTHWISE,
    Decomposition,
    Rank,
    decomposition,
    register,
    total,
)

__all__ = [
    "DECOMPOSITIONS", "DEPTHWISE", "Decomposition", "Rank", "decomposition", "register", "total",
]  # fmt: skip
