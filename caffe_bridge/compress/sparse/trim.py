"""Kernels lose their zero borders.

Where the outermost t taps of a convolution's kernel are zero on both sides of an axis, for all
filters and channels, the kernel can be 2 t shorter if the padding shrinks along: with dilation d

    sum_i w_i x[s o + i d - p]  =  sum_(i = t)^(k - 1 - t) w_i x[s o + (i - t) d - (p - t d)]

so that p' = p - t d and k' = k - 2 t. Caffe pads both sides equally and not less than 0, hence the
same t on both sides and t d <= p. All output positions, padded or not, stay the same.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from caffe_bridge.compress.rewrite import Blobs
from caffe_bridge.compress.target import layer_param, window_of
from caffe_bridge.schema import Record

_FIELDS = ("kernel_size", "kernel_h", "kernel_w", "pad", "pad_h", "pad_w")


def _rings(weight: np.ndarray, axis: int, most: int) -> int:
    """Zero taps at both ends of a kernel axis, at most ``most``; one tap stays."""
    used = (weight != 0).any(tuple(i for i in range(weight.ndim) if i != axis))
    places = np.flatnonzero(used)
    size = len(used)
    if not len(places):
        return min(most, (size - 1) // 2)
    return int(min(places[0], size - 1 - places[-1], most, (size - 1) // 2))


def trim_kernels(
    net: Record, blobs: Blobs
) -> tuple[Record, Blobs, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Cut the zero borders of all kernels.

    Args:
        net: NetParameter of all phases; not changed.
        blobs: by layer name; not changed.

    Returns:
        The net, its blobs, and kernel before and after of each layer that changed.
    """
    made, new = net.copy(), dict(blobs)
    times = Counter(layer.name for layer in made.layer)
    changed = {}
    for layer in made.layer:
        if layer.type != "Convolution" or layer.name not in blobs or times[layer.name] > 1:
            continue
        if any(spec.name for spec in layer.param):
            continue
        weight = blobs[layer.name][0]
        window = window_of(layer, weight.ndim - 2)
        rings = [
            _rings(weight, axis + 2, pad // dilation)
            for axis, (pad, dilation) in enumerate(zip(window.pad, window.dilation, strict=True))
        ]
        if not any(rings):
            continue
        param = layer_param(layer)
        for name in _FIELDS:
            param.clear(name)
        kernel = tuple(k - 2 * t for k, t in zip(window.kernel, rings, strict=True))
        pad = [p - t * d for p, t, d in zip(window.pad, rings, window.dilation, strict=True)]
        param.kernel_size = list(kernel) if len(set(kernel)) > 1 else [kernel[0]]
        if any(pad):
            param.pad = pad if len(set(pad)) > 1 else [pad[0]]
        inside: Any = (..., *(slice(t, k - t) for k, t in zip(window.kernel, rings, strict=True)))
        new[layer.name] = [np.ascontiguousarray(weight[inside]), *blobs[layer.name][1:]]
        changed[layer.name] = (window.kernel, kernel)
    return made, new, changed
