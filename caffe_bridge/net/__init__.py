"""Nets as torch modules."""

from caffe_bridge.net.build import Built, LearnableBlob, build, infer_shapes, with_inputs
from caffe_bridge.net.net import Net
from caffe_bridge.net.runtime import Runtime, RuntimeNet
from caffe_bridge.net.weights import (
    copy_weights,
    load_or_fill,
    save,
    share_weights,
    stored_arrays,
)

__all__ = [
    "Built", "LearnableBlob", "Net", "Runtime", "RuntimeNet", "build", "copy_weights",
    "infer_shapes", "load_or_fill", "save", "share_weights", "stored_arrays", "with_inputs",
]  # fmt: skip
