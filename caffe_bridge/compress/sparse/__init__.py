"""Sparsity: pruning by magnitude, statistics, and zeros taken out of the tensors."""

from caffe_bridge.compress.sparse.prune import Pruned, PrunedLayer, prune
from caffe_bridge.compress.sparse.statistics import SparsityRow, sparsity_table
from caffe_bridge.compress.sparse.units import UNITS, Unit

__all__ = ["UNITS", "Pruned", "PrunedLayer", "SparsityRow", "Unit", "prune", "sparsity_table"]
