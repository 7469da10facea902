"""Training as Caffe trains."""

from caffe_bridge.solver.engine import Solver
from caffe_bridge.solver.force import force_gradient
from caffe_bridge.solver.lr_policy import learning_rate
from caffe_bridge.solver.nets import read_solver

__all__ = ["Solver", "force_gradient", "learning_rate", "read_solver"]
