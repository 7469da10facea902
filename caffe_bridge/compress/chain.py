"""A layer as a chain of layers: the records and blobs of what replaces it.

The first link reads the layer's bottoms, the last one makes its tops and adds the bias; between
them every top gets a blob named ``<top><suffix>``. Names and the placing of the bias are those of
the reference's tools, so that its users' scripts find what they expect.

Differences from the reference:
    force_mult (and the name of a shared weight) stays with the first link only, because the force
    that made the rank low would pull the other weights' rows together for no benefit; a
    decay_proto is dropped from all weights, whose shapes it no longer fits; loss_weight and a
    fused ReLU belong to the last link only, propagate_down to the first only; no link but the last
    has a bias (the reference's vertical layer carries a frozen one of zeros); kernel_h, kernel_w,
    pad_h, ... are reset as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffe_bridge.compress.target import Target, layer_param, window_of
from caffe_bridge.schema import Record

KEEP, POINT = "keep", "point"
_REPEATED = ("kernel_size", "stride", "pad", "dilation")
_BY_AXIS = tuple(f"{name}_{axis}" for name in ("kernel", "stride", "pad") for axis in "hw")


@dataclass(frozen=True)
class Link:
    """One layer of a chain.

    Args:
        suffix: what its name adds.
        num_output: filters; 0 leaves the layer's.
        window: "keep" for the layer's kernel, stride, pad and dilation; "point" for 1x1; "h" or
            "w" for those of one of two axes.
        group: groups; 0 leaves the layer's.
    """

    suffix: str
    num_output: int = 0
    window: str = KEEP
    group: int = 0


def _set_window(layer: Record, param: Record, kept: str) -> None:
    if kept == KEEP:
        return
    window = window_of(layer, 2) if kept != POINT else None
    for name in (*_REPEATED, *_BY_AXIS):
        param.clear(name)
    if window is None:
        param.kernel_size = [1]
        return
    axis = "hw".index(kept)
    param.kernel_h, param.kernel_w = (k if i == axis else 1 for i, k in enumerate(window.kernel))
    if window.stride[axis] != 1:
        param.stride_h, param.stride_w = (
            s if i == axis else 1 for i, s in enumerate(window.stride)
        )
    if window.pad[axis]:
        param.pad_h, param.pad_w = (p if i == axis else 0 for i, p in enumerate(window.pad))
    if window.dilation[axis] != 1:
        param.dilation = [d if i == axis else 1 for i, d in enumerate(window.dilation)]


def chain_records(layer: Record, links: Sequence[Link]) -> list[Record]:
    """The layers of a chain that replaces ``layer``; rules and phase stand on all of them."""
    made = []
    before = ""
    for number, link in enumerate(links):
        first, last = number == 0, number == len(links) - 1
        new = layer.copy()
        new.name = layer.name + link.suffix
        new.clear("blobs")
        if not first:
            new.bottom = [top + before for top in layer.top]
            new.clear("propagate_down")
        param = layer_param(new)
        if not last:
            new.top = [top + link.suffix for top in layer.top]
            new.clear("loss_weight")
            new.param = list(new.param[:1])
            param.bias_term = False
            for name in ("bias_filler", "relu", "negative_slope"):
                param.clear(name)
        for spec in new.param[:1]:
            spec.clear("decay_proto")
            for name in () if first else ("name", "share_mode", "force_mult", "force_regularize"):
                spec.clear(name)
        if link.num_output:
            param.num_output = link.num_output
        if layer.type == "Convolution":
            _set_window(layer, param, link.window)
            if link.group:
                param.group = link.group
        elif not first and param.axis < 0:
            # A negative axis counts from the end, where the first layer left a single axis.
            param.axis = -1
        made.append(new)
        before = link.suffix
    return made


def as_stored(array: np.ndarray, target: Target) -> np.ndarray:
    """An array in the precision of the layer's weight, float32 at least."""
    kind = np.float64 if target.weight.dtype == np.float64 else np.float32
    return np.ascontiguousarray(array, kind)


def chain_blobs(target: Target, weights: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """The blobs of every link: its weight, and the layer's bias at the last."""
    blobs = [[as_stored(weight, target)] for weight in weights]
    if target.bias is not None:
        blobs[-1].append(as_stored(target.bias, target))
    return blobs


def pointwise(matrix: np.ndarray, axes: int) -> np.ndarray:
    """A matrix [outputs, inputs] as the weight of a 1x1 convolution with that many axes."""
    return matrix.reshape(*matrix.shape, *(1,) * axes)
