"""What a form costs the net, from a sensitivity scan instead of the weights.

The scan knows the squared relative error of the judged blob for one method at some ranks. A form of
that method is looked up by its rank (pca and svd cut the same subspace). A form of another method
is looked up by the share of the weight's energy that it loses,

    loss(form) = curve(e),   curve(e_r) = loss of the scan at rank r,   e_r the share lost at r,

interpolated between the scanned ranks and continued in proportion beyond them. Losses of different
layers add up.
"""

from __future__ import annotations

import numpy as np

from caffe_bridge.compress.decompose import decomposition, total
from caffe_bridge.compress.latency.forms import Form
from caffe_bridge.compress.sensitivity import Scan, losses
from caffe_bridge.compress.target import Target
from caffe_bridge.errors import PlanError

#: Methods whose approximations are equal at equal rank.
_SAME = {"svd": "pca"}


def _family(name: str) -> str:
    return _SAME.get(name, name)


class MeasuredLosses:
    """Squared error of the judged blob for forms of the scanned layers.

    Args:
        scan: a sensitivity scan of the net.
        targets: the layers that can be decomposed, by name.

    Raises:
        PlanError: the scan has none of the layers, or was made of a layer of another size.
    """

    def __init__(self, scan: Scan, targets: dict[str, Target]) -> None:
        self.scan, self.method = scan, decomposition(scan.method)
        self._by_rank = {name: f for name, f in losses(scan).items() if name in targets}
        if not self._by_rank:
            raise PlanError(
                "the sensitivity scan has none of the layers of this net that can be decomposed; "
                "scan this net."
            )
        largest = {point.layer: point.most for point in scan.points}
        for name in self._by_rank:
            target = targets[name]
            most = self.method.max_rank(target.blob, target.group)
            if most != largest[name]:
                raise PlanError(
                    f"the sensitivity scan gives {name} a largest rank of {largest[name]}, "
                    f"{target.label} has {most}; scan this net."
                )
        self._curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __contains__(self, layer: str) -> bool:
        return layer in self._by_rank

    def __call__(self, target: Target, form: Form, lost: float) -> float:
        """The squared error of a form that loses the share ``lost`` of the weight's energy."""
        if _family(form.method.name) == _family(self.method.name):
            return self._by_rank[target.name](total(form.rank))
        shares, values = self._curve(target)
        if lost > shares[-1] > 0:
            return float(values[-1] * lost / shares[-1])
        return float(np.interp(lost, shares, values))

    def _curve(self, target: Target) -> tuple[np.ndarray, np.ndarray]:
        """Shares lost at the scanned ranks, rising from 0, and the losses there."""
        if target.name not in self._curves:
            spectra = self.method.spectrum(target.blob, target.group)
            ranks = sorted({p.rank for p in self.scan.points if p.layer == target.name})[::-1]
            shares = [
                self.method.predicted_error(target.blob, rank, target.group, spectra) ** 2
                for rank in ranks
            ]
            values = [self._by_rank[target.name](rank) for rank in ranks]
            self._curves[target.name] = np.array([0.0, *shares]), np.array([0.0, *values])
        return self._curves[target.name]
