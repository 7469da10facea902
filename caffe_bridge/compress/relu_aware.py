"""A low-rank map that keeps what passes the ReLU behind a layer.

Zhang et al., "Accelerating very deep convolutional networks for classification and detection",
TPAMI 2016, section 3.2. With the responses y of a layer (bias included) and a low-rank map
u = A g + c of what enters it,

    min_{A, c, z}  sum |relu(y) - relu(z)|^2 + lambda |z - u|^2

is solved in turns: for given z, (A, c) is the reduced-rank regression of g on z; for given (A, c)
every element of z is the better of

    z0 = min(0, u)                                   cost relu(y)^2 + lambda (z0 - u)^2
    z1 = max(0, (lambda u + relu(y)) / (lambda + 1)) cost (relu(y) - z1)^2 + lambda (z1 - u)^2.

lambda grows, so that z and u come together. The turns begin twice, with the map nearest to y and
with the one nearest to relu(y), which gives up responses that are negative anyway. Of all maps on
the way the one with the smallest error behind the ReLU on the samples is taken, the first one too.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from caffe_bridge.compress.calibration import Moments
from caffe_bridge.compress.responses import RIDGE, Factors, regress
from caffe_bridge.compress.target import Target
from caffe_bridge.net import Net

#: (lambda, turns), as in He et al., "Channel pruning", ICCV 2017.
SCHEDULE = ((0.1, 30), (1.0, 20))
#: Relative change of the error at which the turns with one lambda end.
STILL = 1e-3
_TINY = np.finfo(float).tiny


def before_relu(net: Net, name: str) -> bool:
    """Whether nothing but one ReLU of slope 0 reads what a layer makes."""
    for node in net.built.graph.nodes:
        if node.layer.name == name and len(node.outputs) == 1:
            made = node.outputs[0].index
            readers = [n for n in net.built.graph.nodes if any(v.index == made for v in n.inputs)]
            return len(readers) == 1 and (
                readers[0].layer.type == "ReLU"
                and readers[0].layer.record.relu_param.negative_slope == 0
            )
    return False


def _passed(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0.0)


def _closest(passed: np.ndarray, u: np.ndarray, weight: float) -> np.ndarray:
    """The z that minimises the elementwise cost."""
    below = np.minimum(u, 0.0)
    above = _passed((weight * u + passed) / (weight + 1.0))
    cost_below = passed**2 + weight * (below - u) ** 2
    cost_above = (passed - above) ** 2 + weight * (above - u) ** 2
    return np.where(cost_below < cost_above, below, above)


def fit_group(
    y: np.ndarray, g: np.ndarray, bias: np.ndarray, rank: int, exact: bool
) -> tuple[Factors, float]:
    """The factors of one group, and the squared error behind the ReLU on the samples.

    Args:
        y: responses of the whole net without bias [N, n].
        g: responses to what the decomposed net gives the layer, without bias [N, n].
        bias: the layer's bias [N].
        rank: r.
        exact: whether g is y.
    """
    passed, bias = _passed(y + bias[:, None]), bias[:, None]
    mean = g.mean(axis=1, keepdims=True)
    centred = g - mean
    moment = centred @ centred.T / g.shape[1]
    inverse = np.linalg.inv(moment + (RIDGE * np.trace(moment) / len(g) + _TINY) * np.eye(len(g)))

    def judged(made: Factors) -> tuple[np.ndarray, float]:
        u = made[0] @ (made[1] @ g) + made[2][:, None] + bias
        return u, float(np.sum((passed - _passed(u)) ** 2))

    def fitted(wanted: np.ndarray) -> Factors:
        """As :func:`regress`; what does not depend on ``wanted`` is known."""
        cross = wanted @ centred.T / g.shape[1]
        full = cross @ inverse
        vectors = np.linalg.eigh(full @ cross.T)[1][:, ::-1][:, :rank]
        reduced = vectors.T @ full
        return vectors, reduced, wanted.mean(axis=1) - vectors @ (reduced @ mean[:, 0])

    first = Moments(len(y))
    first.add(y, g)
    best = regress(first, rank, exact)
    least = judged(best)[1]
    for start in (y, passed - bias):
        factors = fitted(start)
        u, error = judged(factors)
        for weight, turns in SCHEDULE:
            for _ in range(turns):
                if error < least:
                    best, least = factors, error
                before = error
                factors = fitted(_closest(passed, u, weight) - bias)
                u, error = judged(factors)
                if abs(before - error) < STILL * before:
                    break
        if error < least:
            best, least = factors, error
    return best, least


def fit_before_relu(
    target: Target,
    batches: Iterable[list[tuple[np.ndarray, np.ndarray]]],
    rank: int,
    exact: bool,
) -> tuple[list[Factors], float]:
    """The factors of all groups of a layer, and the relative error behind its ReLU.

    Args:
        target: the layer.
        batches: as :func:`~caffe_bridge.compress.responses.responses` yields them.
        rank: r of all groups together.
        exact: whether g is y.
    """
    parts: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(target.group)]
    for batch in batches:
        for part, pair in zip(parts, batch, strict=True):
            part.append(pair)
    bias = np.zeros(target.num_output) if target.bias is None else target.bias.astype(np.float64)
    solved, error, norm = [], 0.0, 0.0
    for part, own in zip(parts, np.split(bias, target.group), strict=True):
        y, g = (np.concatenate(values, axis=1) for values in zip(*part, strict=True))
        factors, left = fit_group(y, g, own, rank // target.group, exact)
        solved.append(factors)
        error += left
        norm += float(np.sum(_passed(y + own[:, None]) ** 2))
    return solved, float(np.sqrt(error / norm)) if norm > 0 else 0.0
