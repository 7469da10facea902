"""Measured speed of ONNX models, and counted cost of nets."""

from caffe_bridge.bench.compare import compare, layer_results
from caffe_bridge.bench.cost import LayerCost, NetCost, net_cost
from caffe_bridge.bench.machine import Machine, channel_block, machine_info
from caffe_bridge.bench.onnx_graph import RUNTIME
from caffe_bridge.bench.profile import (
    LayerProfile,
    LayerRow,
    compare_layers,
    profile_models,
)
from caffe_bridge.bench.report import (
    BenchResult,
    Difference,
    LayerResult,
    ModelResult,
    conditions,
    from_json,
    layer_table,
    load_json,
    model_table,
    to_csv,
    to_json,
    to_markdown,
)
from caffe_bridge.bench.session import BenchSession, make_feeds, make_session
from caffe_bridge.bench.timing import (
    FULL,
    QUICK,
    Schedule,
    SpeedUp,
    Stats,
    Timing,
    measure,
    speed_up,
    statistics,
)

__all__ = [
    "FULL", "QUICK", "RUNTIME", "BenchResult", "BenchSession", "Difference", "LayerCost",
    "LayerProfile", "LayerResult", "LayerRow", "Machine", "ModelResult", "NetCost", "Schedule",
    "SpeedUp", "Stats", "Timing", "channel_block", "compare", "compare_layers",
    "conditions", "from_json", "layer_results", "layer_table", "load_json", "machine_info",
    "make_feeds", "make_session", "measure", "model_table", "net_cost", "profile_models",
    "speed_up", "statistics", "to_csv", "to_json", "to_markdown",
]  # fmt: skip
