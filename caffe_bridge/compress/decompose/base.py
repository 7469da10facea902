"""The contract of a decomposition: everything about one way to split a layer in one class.

Contract, for a weight W whose N rows are filters of K weights (each group for itself):

    W [N, K]  ~=  combination [N, r]  basis [r, K]

    predicted error = ||W - combination basis||_F / ||W||_F

The product is exact at ``max_rank``, and the error does not grow with the rank. A method of this
family gives :meth:`Decomposition.factor` and its spectrum; one that needs other layers (separable
kernels, say) overrides :meth:`Decomposition.records` and :meth:`Decomposition.blobs` too. A file in
this folder that registers its class is all that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from caffe_bridge.compress.pair import pair_blobs, pair_records
from caffe_bridge.compress.rank.energy import tail_error
from caffe_bridge.compress.target import Target
from caffe_bridge.errors import PlanError
from caffe_bridge.registry import Registry
from caffe_bridge.schema import Record


class Decomposition:
    """Base of all decompositions.

    Weights are given as blobs or matrices; axis 0 is the filters, the rest is flattened. Ranks are
    totals over the groups unless stated.
    """

    name: ClassVar[str] = ""
    #: Keyword arguments of the constructor and the values they may have.
    options: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def refusal(self, target: Target) -> str:
        """Why the method cannot serve a layer; empty if it can."""
        return ""

    def max_rank(self, weight: np.ndarray, group: int = 1) -> int:
        """Total rank at which the layer is reproduced exactly: ``g min(N / g, K)``."""
        filters = weight.shape[0]
        return group * min(filters // group, weight.size // filters)

    def spectrum(self, weight: np.ndarray, group: int = 1) -> list[np.ndarray]:
        """Eigenvalues (squared singular values, descending) of every group.

        Raises:
            PlanError: the method has no spectrum.
        """
        raise PlanError(
            f"{self.name} has no spectrum from which an energy could choose ranks; give ranks."
        )

    def factor(self, weight: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Basis [rank, K] and combination [N, rank] of one group's weight [N, K], in float64."""
        raise NotImplementedError

    def predicted_error(
        self,
        weight: np.ndarray,
        rank: int,
        group: int = 1,
        spectra: Sequence[np.ndarray] | None = None,
    ) -> float:
        """Relative error ``||W - W_rank||_F / ||W||_F``; ``spectra`` saves computing them."""
        return tail_error(self.spectrum(weight, group) if spectra is None else spectra, rank)

    def records(self, layer: Record, rank: int) -> list[Record]:
        """The layers that replace ``layer``."""
        return pair_records(layer, rank)

    def blobs(self, target: Target, rank: int) -> list[list[np.ndarray]]:
        """The blobs of every layer of :meth:`records`."""
        parts = groups(target.weight, target.group)
        return pair_blobs(target, [self.factor(part, rank // target.group) for part in parts])


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
    """The weight matrix [N / group, K] of every group, in float64."""
    matrix = np.asarray(weight).reshape(weight.shape[0], -1)
    return [part.astype(np.float64) for part in np.split(matrix, group)]


def fix_signs(basis: np.ndarray, combination: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn every component so that the largest entry of its combination column is positive."""
    largest = combination[np.abs(combination).argmax(axis=0), np.arange(combination.shape[1])]
    signs = np.where(largest < 0, -1.0, 1.0)
    return basis * signs[:, None], combination * signs
