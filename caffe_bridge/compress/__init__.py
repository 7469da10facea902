"""Compression: plans that replace layers by cheaper ones, and the nets they make.

What runs or builds nets, and so needs torch, is imported from its own module: ``budget``,
``calibration``, ``data_aware``, ``batch_norm``.
"""

from caffe_bridge.compress.decompose import DECOMPOSITIONS, Decomposition, decomposition
from caffe_bridge.compress.edited import refreshed
from caffe_bridge.compress.plan import WHOLE, LayerPlan, Plan, load_plan, parse_plan
from caffe_bridge.compress.planner import make_plan
from caffe_bridge.compress.rank import (
    RANK_RULES,
    energy_of,
    rank_by_energy,
    rank_by_norm,
    theoretical_speedup,
)
from caffe_bridge.compress.rank_table import RankRow, rank_table
from caffe_bridge.compress.rewrite import (
    Written,
    as_weights_of,
    decompose_net,
    rewrite,
    write_decomposed,
)

__all__ = [
    "DECOMPOSITIONS",
    "RANK_RULES",
    "WHOLE",
    "Decomposition",
    "LayerPlan",
    "Plan",
    "RankRow",
    "Written",
    "as_weights_of",
    "decompose_net",
    "decomposition",
    "energy_of",
    "load_plan",
    "make_plan",
    "parse_plan",
    "rank_by_energy",
    "rank_by_norm",
    "rank_table",
    "refreshed",
    "rewrite",
    "theoretical_speedup",
    "write_decomposed",
]
