"""Ways to split a layer into cheaper ones; found automatically, one file each."""

from caffe_bridge.compress.decompose.base import (
    DECOMPOSITIONS,
    Decomposition,
    decomposition,
    register,
)

__all__ = ["DECOMPOSITIONS", "Decomposition", "decomposition", "register"]
