"""Rules that choose ranks from spectra."""

from caffe_bridge.compress.rank.align import align
from caffe_bridge.compress.rank.energy import (
    check_ratio,
    energy_of,
    rank_by_energy,
    rank_by_norm,
    rank_for,
    tail_error,
    theoretical_speedup,
)
from caffe_bridge.compress.rank.registry import RANK_RULES, RankRule

__all__ = [
    "RANK_RULES", "RankRule", "align", "check_ratio", "energy_of", "rank_by_energy", "rank_by_norm",
    "rank_for", "tail_error", "theoretical_speedup",
]  # fmt: skip
