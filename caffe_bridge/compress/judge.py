"""How far a changed net's answers are from the original's, on data.

Two numbers: the relative error of the blob that is judged,

    error = |z' - z| / |z|         z of the whole net, z' of the changed one,

and where the net scores itself (a blob ``accuracy``) the accuracy, else the share of items whose
largest value stays at its place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from caffe_bridge.compress.calibration import Feed
from caffe_bridge.errors import PlanError
from caffe_bridge.net import Net

#: Types whose bottom is judged in place of their top: errors show before the softmax.
_ENDS = ("Softmax", "SoftmaxWithLoss", "Accuracy", "ArgMax")


def judged_blob(net: Net) -> str:
    """The blob whose error is measured: what the last layer scores, or what it makes.

    Layers without tops (Silence) make nothing; one that makes a scalar, such as a loss, scores.
    """
    node = [node for node in net.built.graph.nodes if node.outputs][-1]
    scores = node.layer.type in _ENDS or not net.built.shapes[node.outputs[0].index]
    return (node.inputs if scores and node.inputs else node.outputs)[0].blob


@torch.no_grad()
def _answers(net: Net, feeds: Sequence[Feed], blob: str) -> tuple[list[np.ndarray], float | None]:
    values, scores = [], []
    for feed in feeds:
        net(feed)
        values.append(net.values[blob].double().numpy())
        if "accuracy" in net.values:
            scores.append(float(net.values["accuracy"].mean()))
    return values, float(np.mean(scores)) if scores else None


def _largest(values: np.ndarray) -> np.ndarray:
    rows = np.atleast_1d(values)
    return np.asarray(rows.reshape(len(rows), -1).argmax(axis=1))


class Judge:
    """The original's answers, with which others are compared.

    Args:
        net: the original, TEST phase.
        feeds: batches.
        blob: what is judged; see :func:`judged_blob` when empty.

    Attributes:
        scored: "accuracy", or "agreement" of the largest value with the original's.
        whole: score of the original.

    Raises:
        PlanError: there is no batch.
    """

    def __init__(self, net: Net, feeds: Sequence[Feed], blob: str = "") -> None:
        if not feeds:
            raise PlanError("judging a net wants at least one batch of inputs.")
        self.feeds, self.blob = feeds, blob or judged_blob(net)
        self._dense, accuracy = _answers(net, feeds, self.blob)
        self._norm = float(np.sqrt(sum(np.sum(v**2) for v in self._dense)))
        self.scored = "agreement" if accuracy is None else "accuracy"
        self.whole = 1.0 if accuracy is None else accuracy

    def __call__(self, net: Net) -> tuple[float, float]:
        """Error and score of a changed net.

        Raises:
            PlanError: it does not make the judged blob.
        """
        if self.blob not in net.built.graph.blobs():
            raise PlanError(f"{net.spec.name or 'the net'}: does not make blob '{self.blob}'.")
        found, score = _answers(net, self.feeds, self.blob)
        pairs = list(zip(found, self._dense, strict=True))
        gap = sum(float(np.sum((a - b) ** 2)) for a, b in pairs)
        error = float(np.sqrt(gap)) / self._norm if self._norm else 0.0
        if score is None:
            same = [_largest(a) == _largest(b) for a, b in pairs]
            score = float(np.concatenate(same).mean())
        return error, score
