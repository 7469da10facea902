"""Ranks chosen by measured time: latency tables, allocation, and the correction by the whole."""

from caffe_bridge.compress.latency.allocate import Option, allocate
from caffe_bridge.compress.latency.budget import Request, plan_for_time
from caffe_bridge.compress.latency.cache import LatencyCache, default_path
from caffe_bridge.compress.latency.forms import FORMS, Form, forms_of
from caffe_bridge.compress.latency.search import Outcome, Search, Try
from caffe_bridge.compress.latency.table import (
    Allowance,
    LayerTimer,
    LayerTimes,
    bottom_shapes,
    latency_table,
)
from caffe_bridge.compress.latency.together import Timed, against_first, time_together
from caffe_bridge.compress.latency.whole import Measured

__all__ = [
    "FORMS", "Allowance", "Form", "LatencyCache", "LayerTimer", "LayerTimes", "Measured", "Option",
    "Outcome", "Request", "Search", "Timed", "Try", "against_first", "allocate", "bottom_shapes",
    "default_path", "forms_of", "latency_table", "plan_for_time", "time_together",
]  # fmt: skip
