"""What a form costs the net, from a sensitivity scan instead of the weights.

The scan knows the squared relative error of the judged blob for one method at some ranks. A form of
that method is looked up by its rank (pca and svd cut the same subspace). A form of another method
is looked up by the share of the weight's energy that it loses,

    loss(form) = curve(e),   curve(e_r) = loss of the scan at rank r,   e_r the share lost at r,

interpolated between the scanned ranks and continued in proportion beyond them. That is a guess:
equal shares of the weight need not cost the same in two forms, so that scans of several methods may
be given, each for its own. Losses of different layers add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caffe_bridge.compress.decompose import Decomposition, decomposition, total
from caffe_bridge.compress.latency.forms import Form
from caffe_bridge.compress.sensitivity import Loss, Scan, losses
from caffe_bridge.compress.target import Target
from caffe_bridge.errors import PlanError

#: Methods whose approximations are equal at equal rank.
_SAME = {"svd": "pca"}


def _family(name: str) -> str:
    return _SAME.get(name, name)


class _Measured:
    """One scan, by rank and by share of the energy."""

    def __init__(self, scan: Scan, targets: Mapping[str, Target]) -> None:
        self.scan, self.method = scan, decomposition(scan.method)
        self.by_rank: dict[str, Loss] = {n: f for n, f in losses(scan).items() if n in targets}
        _refuse_other_sizes(scan, self.method, targets)
        self._curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def at(self, target: Target, lost: float) -> float:
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
            values = [self.by_rank[target.name](rank) for rank in ranks]
            self._curves[target.name] = np.array([0.0, *shares]), np.array([0.0, *values])
        return self._curves[target.name]


def _refuse_other_sizes(scan: Scan, method: Decomposition, targets: Mapping[str, Target]) -> None:
    for name, largest in {point.layer: point.most for point in scan.points}.items():
        if name not in targets:
            continue
        most = method.max_rank(targets[name].blob, targets[name].group)
        if most != largest:
            raise PlanError(
                f"the sensitivity scan gives {name} a largest rank of {largest}, "
                f"{targets[name].label} has {most}; scan this net."
            )


class MeasuredLosses:
    """Squared error of the judged blob for forms of the scanned layers.

    Args:
        scans: sensitivity scans of the net, of one judged blob; the first that has a layer is used
            for its forms of other methods.
        targets: the layers that can be decomposed, by name.

    Attributes:
        blob: what is judged.

    Raises:
        PlanError: no scan has any of the layers, one was made of a layer of another size, or the
            judged blobs differ.
    """

    def __init__(self, scans: Sequence[Scan], targets: Mapping[str, Target]) -> None:
        blobs = sorted({scan.blob for scan in scans})
        if len(blobs) > 1:
            raise PlanError(
                f"the sensitivity scans judge different blobs ({', '.join(blobs)}); scan for one."
            )
        self._scans = [_Measured(scan, targets) for scan in scans]
        if not any(each.by_rank for each in self._scans):
            raise PlanError(
                "the sensitivity scan has none of the layers of this net that can be decomposed; "
                "scan this net."
            )
        self.blob = blobs[0]

    def __contains__(self, layer: str) -> bool:
        return any(layer in each.by_rank for each in self._scans)

    def __call__(self, target: Target, form: Form, lost: float) -> float:
        """The squared error of a form that loses the share ``lost`` of the weight's energy."""
        known = [each for each in self._scans if target.name in each.by_rank]
        for each in known:
            if _family(form.method.name) == _family(each.method.name):
                return each.by_rank[target.name](total(form.rank))
        return known[0].at(target, lost)
