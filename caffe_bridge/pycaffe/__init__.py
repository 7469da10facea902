"""What ``import caffe`` gave: nets with blobs, solvers, net specs, input preparation.

Use it as ``import caffe_bridge.pycaffe as caffe``; for scripts that nobody wants to edit call
:func:`install` first or start them with ``caffe-bridge py script.py``.
"""

from caffe_bridge import __version__
from caffe_bridge.layers.python import UserLayer as Layer
from caffe_bridge.layers.python import allow_python_layers
from caffe_bridge.pycaffe import coord_map, draw, io, proto
from caffe_bridge.pycaffe.blob import Blob
from caffe_bridge.pycaffe.classifier import Classifier
from caffe_bridge.pycaffe.detector import Detector
from caffe_bridge.pycaffe.mode import (
    NCCL,
    Timer,
    has_nccl,
    init_log,
    layer_type_list,
    log,
    set_device,
    set_mode_cpu,
    set_mode_gpu,
    set_multiprocess,
    set_random_seed,
    set_solver_count,
    set_solver_rank,
    solver_count,
    solver_rank,
)
from caffe_bridge.pycaffe.net import TEST, TRAIN, Net
from caffe_bridge.pycaffe.net_spec import NetSpec, Top, layers, params, to_proto
from caffe_bridge.pycaffe.solver import PySolver
from caffe_bridge.pycaffe.solvers import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    get_solver,
)
from caffe_bridge.pycaffe.stand_in import install, uninstall

__all__ = [
    "NCCL", "TEST", "TRAIN", "AdaDeltaSolver", "AdaGradSolver", "AdamSolver", "Blob",
    "Classifier", "Detector", "Layer", "NesterovSolver", "Net", "NetSpec", "PySolver",
    "RMSPropSolver", "SGDSolver", "Timer", "Top", "__version__", "allow_python_layers",
    "coord_map", "draw", "get_solver", "has_nccl", "init_log", "install", "io", "layer_type_list",
    "layers", "log", "params", "proto", "set_device", "set_mode_cpu", "set_mode_gpu",
    "set_multiprocess", "set_random_seed", "set_solver_count", "set_solver_rank", "solver_count",
    "solver_rank", "to_proto", "uninstall",
]  # fmt: skip
