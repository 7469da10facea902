r"""Ranks by variational Bayes: how many singular values stand out of the noise.

The matrix L x M (L <= M) is taken for a low-rank one plus Gaussian noise of unknown variance v.
With alpha = L / M, tau = 2.5129 sqrt(alpha), x_bar = (1 + tau) (1 + alpha / tau), the noise
minimises

    F(v) = sum_{x_h <= x_bar} (x_h - ln x_h)
         + sum_{x_h > x_bar} (x_h - t_h + ln((t_h + 1) / x_h) + alpha ln(t_h / alpha + 1)),
    x_h = s_h^2 / (M v),   t_h = (x_h - (1 + alpha) + sqrt((x_h - (1 + alpha))^2 - 4 alpha)) / 2,

for v between max(s_{k+1}^2 / (M x_bar), mean(s_{k+1..L}^2) / M), k = ceil(L / (1 + alpha)) - 1, and
sum s^2 / (L M). The rank is the number of s_h > sqrt(M v x_bar).

Nakajima et al., "Global analytic solution of fully-observed variational Bayesian matrix
factorization", JMLR 2013; used for ranks by Kim et al., ICLR 2016. Only the singular values are
needed, which the smaller Gram matrix gives.

The rule's ratio weakens it: rank = L - ratio (L - R), so that 1 takes the estimate R itself and 0.5
goes half-way back to the full rank. Trained weights are no low-rank matrix plus noise; the estimate
may be very small, so it is at least :data:`FLOOR` (and alignment rounds it up further).
"""

from __future__ import annotations

import math

import numpy as np

from caffe_bridge.compress.rank.energy import check_ratio
from caffe_bridge.compress.rank.registry import RANK_RULES
from caffe_bridge.errors import PlanError

FLOOR = 1
_TAU = 2.5129
#: Starting points of the search, which is not convex, and steps of golden section.
_GRID = 200
_STEPS = 60


def _free_energy(x: np.ndarray, alpha: float, x_bar: float) -> float:
    low, high = x[x <= x_bar], x[x > x_bar]
    shifted = high - (1 + alpha)
    t = (shifted + np.sqrt(np.maximum(shifted**2 - 4 * alpha, 0.0))) / 2
    signal = high - t + np.log((t + 1) / high) + alpha * np.log(t / alpha + 1)
    return float((low - np.log(low)).sum() + signal.sum())


def noise_variance(eigenvalues: np.ndarray, shape: tuple[int, int]) -> tuple[float, float]:
    """Variance of the noise, and the eigenvalue above which there is signal.

    Args:
        eigenvalues: squared singular values, descending, L of them.
        shape: of the matrix, in any order.
    """
    rows, columns = min(shape), max(shape)
    alpha = rows / columns
    tau = _TAU * math.sqrt(alpha)
    x_bar = (1 + tau) * (1 + alpha / tau)
    largest = float(eigenvalues[0])
    squares = np.maximum(np.asarray(eigenvalues[:rows], np.float64), largest * 1e-30)
    k = min(math.ceil(rows / (1 + alpha)) - 1, rows - 1)
    upper = float(squares.sum()) / (rows * columns)
    lower = max(squares[k] / (columns * x_bar), float(squares[k:].mean()) / columns)
    lower = min(lower, upper)

    def cost(log_v: float) -> float:
        return _free_energy(squares / (columns * math.exp(log_v)), alpha, x_bar)

    grid = np.linspace(math.log(lower), math.log(upper), _GRID)
    best = int(np.argmin([cost(v) for v in grid]))
    left, right = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _GRID - 1)])
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(_STEPS):
        one, other = right - golden * (right - left), left + golden * (right - left)
        if cost(one) < cost(other):
            right = other
        else:
            left = one
    variance = math.exp((left + right) / 2)
    return variance, columns * variance * x_bar


@RANK_RULES.register("evbmf")
def rank_by_evbmf(
    eigenvalues: np.ndarray, ratio: float, shape: tuple[int, int] | None = None
) -> int:
    """The number of singular values above the noise, weakened by ``ratio`` in (0, 1].

    Raises:
        PlanError: the ratio is out of range, or no shape is given.
    """
    check_ratio(ratio)
    if shape is None:
        raise PlanError("rule evbmf needs the shape of the matrix; use it for a weight.")
    values = np.clip(np.asarray(eigenvalues, np.float64), 0.0, None)
    if values[0] <= 0:
        return FLOOR
    estimate = max(int((values > noise_variance(values, shape)[1]).sum()), FLOOR)
    return round(len(values) - ratio * (len(values) - estimate))
