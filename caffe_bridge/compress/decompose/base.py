"""The contract of a decomposition: everything about one way to split a layer in one class.

Contract, for a weight W whose N rows are filters (each group for itself):

    W  ~=  W_r, the weight for which the new layers stand together
    predicted error = ||W - W_r||_F / ||W||_F

``W_r`` is exact at ``max_rank``, and the error does not grow with the rank. Most methods cut the
singular values of a matrix that holds the weights in some order (:meth:`Decomposition.unfold`),
which gives them a spectrum and the error for nothing. The base class makes the pair of layers
whose matrix has the filters as rows; a method with other layers overrides ``records``, ``blobs``,
``approximation`` and ``macs``. A file in this folder that registers its class is all that it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from caffe_bridge.compress.chain import KEEP, POINT, Link, chain_blobs, chain_records, pointwise
from caffe_bridge.compress.eigen import eigen
from caffe_bridge.compress.rank.energy import rank_for, tail_error
from caffe_bridge.compress.target import Target
from caffe_bridge.errors import PlanError
from caffe_bridge.registry import Registry
from caffe_bridge.schema import Record

#: A rank, or for a method with several the ranks in the order of ``rank_names``.
Rank = int | tuple[int, ...]
LOWRANK, LINEAR = "_lowrank", "_linear"
#: What keeps a depthwise layer from being decomposed.
DEPTHWISE = "it is depthwise: a group has one input channel, which leaves nothing to combine"


class Decomposition:
    """Base of all decompositions.

    Weights are blobs (N, C / group, *kernel) or matrices (N, K). Ranks are totals over the groups
    unless stated.
    """

    name: ClassVar[str] = ""
    #: Keyword arguments of the constructor and the values they may have.
    options: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    #: What the ranks of a method with several are called.
    rank_names: ClassVar[tuple[str, ...]] = ("rank",)
    #: Whether the rank is a number of filters, which full rank has num_output of.
    counts_filters: ClassVar[bool] = True
    #: Whether it can serve layers with one input channel a group.
    serves_depthwise: ClassVar[bool] = False

    def refusal(self, target: Target) -> str:
        """Why the method cannot serve a layer; empty if it can."""
        return DEPTHWISE if target.depthwise and not self.serves_depthwise else ""

    def unfold(self, weight: np.ndarray) -> np.ndarray:
        """The matrix whose rank counts, from one group's weight (N / g, C / g, *kernel)."""
        return weight.reshape(len(weight), -1)

    def max_rank(self, weight: np.ndarray, group: int = 1) -> Rank:
        """Total rank at which the layer is reproduced exactly."""
        return group * min(self.unfold(weight[: len(weight) // group]).shape)

    def spectrum(self, weight: np.ndarray, group: int = 1) -> list[np.ndarray]:
        """Eigenvalues (squared singular values, descending) of every group.

        Raises:
            PlanError: the method has no spectrum.
        """
        return [eigen(self.unfold(part)).values for part in groups(weight, group)]

    def choose(
        self,
        weight: np.ndarray,
        group: int,
        ratio: float,
        rule: str,
        spectra: Sequence[np.ndarray] | None = None,
    ) -> Rank:
        """The rank by a rank rule; ``spectra`` saves computing them.

        Raises:
            PlanError: unknown rule, ratio out of range, or no spectrum.
        """
        found = self.spectrum(weight, group) if spectra is None else spectra
        shape = self.unfold(weight[: len(weight) // group]).shape
        return rank_for(found, ratio, rule, (shape[0], shape[1]))

    def ranks(self, target: Target, rank: Rank) -> Rank:
        """The rank in the form of this method; a method with several may spread one.

        Raises:
            PlanError: a list of ranks for a method with one.
        """
        if not isinstance(rank, int):
            raise PlanError(
                f"{target.label}: {self.name} has one rank, found {list(rank)}; give an integer."
            )
        return rank

    def misfit(self, target: Target, rank: Rank) -> str:
        """Why several ranks, each of which the layer can have, do not go together; else empty."""
        return ""

    def factor(self, weight: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Basis [rank, K] and combination [N, rank] of one group's weight [N, K], in float64.

        Abstract: methods of one basis and one combination state it; others state ``blobs``.
        """
        raise NotImplementedError

    def predicted_error(
        self,
        weight: np.ndarray,
        rank: Rank,
        group: int = 1,
        spectra: Sequence[np.ndarray] | None = None,
    ) -> float:
        """Relative error ``||W - W_rank||_F / ||W||_F``; ``spectra`` saves computing them."""
        found = self.spectrum(weight, group) if spectra is None else spectra
        return tail_error(found, total(rank))

    def records(self, layer: Record, rank: Rank) -> list[Record]:
        """The layers that replace ``layer``."""
        links = [Link(LOWRANK, total(rank), KEEP), Link(LINEAR, 0, POINT)]
        return chain_records(layer, links)

    def blobs(self, target: Target, rank: Rank) -> list[list[np.ndarray]]:
        """The blobs of every layer of :meth:`records`."""
        each = total(rank) // target.group
        pairs = [self.factor(part, each) for part in groups(target.weight, target.group)]
        basis = np.concatenate([b for b, _ in pairs])
        combination = np.concatenate([c for _, c in pairs])
        if target.is_fc:
            transposed = target.record.inner_product_param.transpose
            return chain_blobs(target, [m.T if transposed else m for m in (basis, combination)])
        axes = len(target.shape) - 1
        return chain_blobs(target, [basis.reshape(-1, *target.shape), pointwise(combination, axes)])

    def macs(
        self, target: Target, rank: Rank, inputs: Sequence[int], outputs: Sequence[int]
    ) -> int:
        """Multiply-accumulates of one item: ``P (r K + N r / g)``.

        Args:
            target: the layer.
            rank: its rank.
            inputs: spatial sizes of the bottom; empty for a fully connected layer.
            outputs: spatial sizes of the top, P their product.
        """
        each = total(rank)
        positions = math.prod(outputs)
        return positions * (each * target.inputs + target.num_output * each // target.group)

    def params(self, target: Target, rank: Rank) -> int:
        """Weights of all layers, without the bias: MACs where every map is one position."""
        ones = (1,) * (0 if target.is_fc else len(target.shape) - 1)
        return self.macs(target, rank, ones, ones)

    def speedup(self, target: Target, rank: Rank) -> float:
        """Multiply-accumulates before over after for large maps. Not a time."""
        if target.is_fc:
            return target.num_output * target.inputs / self.params(target, rank)
        stride = target.window.stride
        ones = (1,) * len(stride)
        return target.num_output * target.inputs / self.macs(target, rank, stride, ones)


def total(rank: Rank) -> int:
    """The rank of a method that has one."""
    return rank if isinstance(rank, int) else rank[-1]


DECOMPOSITIONS: Registry[type[Decomposition]] = Registry(
    "decomposition", "caffe_bridge.compress.decompose", "caffe_bridge.decompositions", PlanError
)


def register(name: str) -> Callable[[type[Decomposition]], type[Decomposition]]:
    """Class decorator: enter a decomposition under its name."""
    enter = DECOMPOSITIONS.register(name)

    def decorate(cls: type[Decomposition]) -> type[Decomposition]:
        cls.name = name
        return enter(cls)

    return decorate


def decomposition(
    name: str, options: Mapping[str, Any] | None = None, where: str = ""
) -> Decomposition:
    """The decomposition ``name`` with its options.

    Raises:
        PlanError: unknown name or option, or a value that the option cannot have.
    """
    cls = DECOMPOSITIONS.get(name, where)
    prefix = f"{where}: " if where else ""
    for option, value in (options or {}).items():
        if option not in cls.options:
            known = ", ".join(cls.options) or "none"
            raise PlanError(f"{prefix}{name} has no option '{option}'; its options: {known}.")
        if value not in cls.options[option]:
            allowed = ", ".join(map(str, cls.options[option]))
            raise PlanError(f"{prefix}option {option} of {name} is {value!r}; give {allowed}.")
    return cls(**(options or {}))


def groups(weight: np.ndarray, group: int) -> list[np.ndarray]:
    """The weight of every group, in float64."""
    return [part.astype(np.float64) for part in np.split(np.asarray(weight), group)]


def residual(weight: np.ndarray, approximations: Sequence[np.ndarray]) -> float:
    """Relative error of the weights that stand for those of the groups."""
    norm = math.sqrt(sum(float((part**2).sum()) for part in groups(weight, 1)))
    parts = zip(groups(weight, len(approximations)), approximations, strict=True)
    left = math.sqrt(sum(float(((part - made) ** 2).sum()) for part, made in parts))
    return left / norm if norm > 0 else 0.0
