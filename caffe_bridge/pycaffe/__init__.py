"""What ``import caffe`` gave: nets with blobs, solvers, phases."""

from caffe_bridge.pycaffe.net import TEST, TRAIN, Net


def set_mode_cpu() -> None:
    """Compute on the CPU (the only device of this interface)."""


__all__ = ["TEST", "TRAIN", "Net", "set_mode_cpu"]
