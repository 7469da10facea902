"""A layer as two: ``<name>_lowrank`` has the basis filters, ``<name>_linear`` combines them.

Names, blob names and the placing of the bias are those of the reference's nn_decomposer, so that
its users' scripts find what they expect.

Differences from the reference:
    force_mult (and the name of a shared weight) stays with the lowrank layer only, because the
    force that made the rank low would pull the combination's rows together for no benefit;
    a decay_proto is dropped from both weights, whose shapes it no longer fits; loss_weight and a
    fused ReLU belong to the linear layer only, propagate_down to the lowrank layer only;
    kernel_h, kernel_w, pad_h, ... are reset as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_bridge.compress.target import Target, layer_param
from caffe_bridge.schema import Record

LOWRANK, LINEAR = "_lowrank", "_linear"
_WINDOW = ("kernel_size", "stride", "pad", "dilation")
_WINDOW_HW = tuple(f"{name}_{axis}" for name in ("kernel", "stride", "pad") for axis in "hw")


def _lowrank(layer: Record, rank: int) -> Record:
    made = layer.copy()
    made.name = layer.name + LOWRANK
    made.top = [top + LOWRANK for top in layer.top]
    made.clear("loss_weight")
    made.clear("blobs")
    made.param = list(made.param[:1])
    for spec in made.param:
        spec.clear("decay_proto")
    param = layer_param(made)
    param.num_output = rank
    param.bias_term = False
    for name in ("bias_filler", "relu", "negative_slope"):
        param.clear(name)
    return made


def _linear(layer: Record) -> Record:
    made = layer.copy()
    made.name = layer.name + LINEAR
    made.bottom = [top + LOWRANK for top in layer.top]
    made.clear("propagate_down")
    made.clear("blobs")
    for spec in made.param[:1]:
        for name in ("name", "share_mode", "force_mult", "force_regularize", "decay_proto"):
            spec.clear(name)
    param = layer_param(made)
    if layer.type == "Convolution":
        for name in (*_WINDOW[1:], *_WINDOW_HW):
            param.clear(name)
        param.kernel_size = [1]
    elif param.axis < 0:
        # A negative axis counts from the end, where the lowrank layer left a single axis.
        param.axis = -1
    return made


def pair_records(layer: Record, rank: int) -> list[Record]:
    """The lowrank and the linear layer that replace ``layer``; rules and phase stand on both."""
    return [_lowrank(layer, rank), _linear(layer)]


def _as_stored(array: np.ndarray, target: Target) -> np.ndarray:
    kind = np.float64 if target.weight.dtype == np.float64 else np.float32
    return np.ascontiguousarray(array, kind)


def pair_blobs(
    target: Target, factors: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[list[np.ndarray]]:
    """The blobs of the two layers.

    Args:
        target: the layer.
        factors: basis [r, K] and combination [N / group, r] of every group.

    Returns:
        lowrank's [weight (group * r, *filter)] and linear's [weight (N, r, 1, ...), bias].
    """
    basis = np.concatenate([b for b, _ in factors])
    combination = np.concatenate([c for _, c in factors])
    if target.is_fc:
        if target.record.inner_product_param.transpose:
            basis, combination = basis.T, combination.T
    else:
        basis = basis.reshape(-1, *target.shape)
        combination = combination.reshape(*combination.shape, *(1,) * (len(target.shape) - 1))
    bias = [] if target.bias is None else [_as_stored(target.bias, target)]
    return [[_as_stored(basis, target)], [_as_stored(combination, target), *bias]]
