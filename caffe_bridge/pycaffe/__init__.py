"""What ``import caffe`` gave: nets with blobs, solvers, phases."""

from caffe_bridge.pycaffe.net import TEST, TRAIN, Net
from caffe_bridge.pycaffe.solver import PySolver, get_solver


def set_mode_cpu() -> None:
    """Compute on the CPU (the only device of this interface)."""


__all__ = ["TEST", "TRAIN", "Net", "PySolver", "get_solver", "set_mode_cpu"]
