"""Ranks chosen by measured time: latency tables, allocation, and the correction by the whole."""

from caffe_bridge.compress.latency.allocate import Option, allocate
from caffe_bridge.compress.latency.budget import Request, plan_for_time
from caffe_bridge.compress.latency.cache import LatencyCache, default_path
from caffe_bridge.compress.latency.forms import FORMS, Form, forms_of
from caffe_bridge.compress.latency.table import LayerTimes, bottom_shapes, latency_table

__all__ = [
    "FORMS", "Form", "LatencyCache", "LayerTimes", "Option", "Request", "allocate",
    "bottom_shapes", "default_path", "forms_of", "latency_table", "plan_for_time",
]  # fmt: skip
