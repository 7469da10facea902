"""pycaffe's solvers on top of the training loop."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import Tensor

from caffe_bridge.pycaffe.net import Net
from caffe_bridge.pycaffe.place import current_place
from caffe_bridge.schema import Record
from caffe_bridge.solver import Solver, read_solver
from caffe_bridge.solver.lr_policy import current_step, learning_rate


class PySolver:
    """A solver whose nets have persistent blobs.

    Raises:
        BridgeError: the solver prototxt or its nets are wrong.
    """

    def __init__(self, solver_file: str | os.PathLike[str]) -> None:
        self.engine = Solver(self._read(solver_file), make_net=Net)
        self.net: Net = self.engine.net  # type: ignore[assignment]
        self.test_nets: list[Net] = self.engine.test_nets  # type: ignore[assignment]
        self.engine.on_start.append(lambda _engine: self.net.executor.settle())
        self.engine.gates.append(self._push)
        self.engine.callbacks.append(lambda _engine: self.net.executor.settle())

    def _push(self, _engine: Solver, _gradients: list[Tensor]) -> bool:
        """Before an update: what the host wrote into weights and gradients counts."""
        self.net.executor.push()
        return True

    def _move(self) -> None:
        """Bring nets and history to where the next pass runs."""
        place = current_place()
        for net in (self.net, *self.test_nets):
            net.executor.move(place)
        self.engine.history = [
            [values.to(place.device) for values in block] for block in self.engine.history
        ]

    def _read(self, solver_file: str | os.PathLike[str]) -> Record:
        return read_solver(solver_file)

    @property
    def iter(self) -> int:
        """Finished iterations."""
        return self.engine.iteration

    def step(self, iterations: int) -> None:
        """Train for a number of iterations."""
        self._move()
        self.engine.step(iterations)

    def solve(self, resume_file: str | os.PathLike[str] | None = None) -> None:
        """Train to the end, after resuming when a solverstate is given."""
        if resume_file is not None:
            self.restore(resume_file)
        self._move()
        self.engine.solve()

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Resume from a solverstate."""
        self.engine.restore(path)

    def snapshot(self) -> None:
        """Write caffemodel and solverstate."""
        self.net.executor.push()
        self.engine.snapshot()

    @property
    def param(self) -> Record:
        """The SolverParameter; its fields are attributes, and changes to them take effect."""
        return self.engine.param

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        engine = self.engine
        step = current_step(engine.param, engine.iteration, engine.step_index)
        return learning_rate(engine.param, engine.iteration, step)

    def apply_update(self) -> None:
        """Update the weights from the gradients that stand in the net."""
        self._move()
        self.engine.apply_update()
        self.net.executor.settle()

    def share_weights(self, net: Net) -> None:
        """Let another net use the train net's learnable blobs."""
        net.share_with(self.net)

    def add_callback(self, on_start: Callable[[], None], on_gradient: Callable[[], None]) -> None:
        """Call one function before every iteration, the other when its gradients are ready."""
        self.engine.on_start.append(lambda _engine: on_start())
        self.engine.on_gradients.append(lambda _engine: on_gradient())
