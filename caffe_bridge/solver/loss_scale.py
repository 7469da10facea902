"""Loss scaling for float16: gradients that would vanish in half precision are kept above zero.

The loss is multiplied before the backward pass and the gradients are divided before anything looks
at them, so that clipping, decay and forces see gradients of the true size. A pass whose gradients
overflow makes no update: neither weights nor history change, decay and force do not act; the
iteration counts, and the learning rate goes on as planned.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffe_bridge.errors import SolverError
from caffe_bridge.net import RuntimeNet

if TYPE_CHECKING:
    from caffe_bridge.solver.engine import Solver


class LossScale:
    """Chooses the scale: halved after an overflow, doubled after a stretch without one.

    Args:
        net: the training net; its ``loss_scale`` is set.
        start: first scale.
        patience: updates without overflow after which the scale doubles.
    """

    #: Below this the gradients themselves, not their scale, are at fault.
    LEAST = 2.0**-10

    def __init__(self, net: RuntimeNet, start: float = 65536.0, patience: int = 2000) -> None:
        self.net, self.patience, self.good = net, patience, 0
        net.loss_scale = start

    def __call__(self, solver: Solver, gradients: list[Tensor]) -> bool:
        """Divide the gradients by the scale; returns whether they may be used.

        Raises:
            SolverError: gradients overflow at any scale.
        """
        torch._foreach_mul_(gradients, 1 / self.net.loss_scale)
        if math.isfinite(float(torch.stack(torch._foreach_norm(gradients)).norm())):
            self.good += 1
            if self.good == self.patience:
                self.good, self.net.loss_scale = 0, self.net.loss_scale * 2
            return True
        self.good, self.net.loss_scale = 0, self.net.loss_scale / 2
        if self.net.loss_scale < self.LEAST:
            raise SolverError(
                f"iteration {solver.iteration}: gradients are not finite even with the loss scale "
                f"{2 * self.net.loss_scale:g}; train with bf16 or float32, or lower base_lr."
            )
        solver.say(f"Iteration {solver.iteration}, gradients overflow: no update, loss scale "
                   f"{self.net.loss_scale:g}")  # fmt: skip
        return False

    def state(self) -> list[float]:
        """Scale and updates since it changed, for the side file of a snapshot."""
        return [self.net.loss_scale, float(self.good)]

    def set_state(self, state: list[float]) -> None:
        """Go on from a :meth:`state`."""
        self.net.loss_scale, self.good = float(state[0]), int(state[1])
