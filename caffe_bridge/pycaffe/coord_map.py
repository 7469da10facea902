"""Where coordinates of one blob lie in another, and automatic crops.

A coordinate map is ``(axis, a, b)``: along the axes after ``axis``, coordinate ``i`` of the bottom
is ``a i + b`` of the top. A window of (dilated) size k, stride s and padding p has ``a = 1/s`` and
``b = (p - (k - 1)/2)/s``; a deconvolution is the inverse; a crop moves by its offset; element-wise
layers change nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from caffe_bridge.errors import GraphError
from caffe_bridge.pycaffe.net_spec import Top
from caffe_bridge.pycaffe.net_spec import layers as L  # noqa: N812 - the name of pycaffe

CoordMap = tuple[int | None, Any, Any]
IDENTITY: CoordMap = (None, 1.0, 0.0)
#: Types whose tops lie where their (first) bottom lies.
PASS_THROUGH = (
    "AbsVal", "Axpy", "BatchNorm", "Bias", "BNLL", "Clip", "Dropout", "Eltwise", "ELU", "Exp",
    "Log", "LRN", "MVN", "Normalize", "Power", "PReLU", "ReLU", "ReLU6", "Scale", "ShuffleChannel",
    "Sigmoid", "Softmax", "Split", "Swish", "TanH", "Threshold",
)  # fmt: skip


class UndefinedMapException(GraphError):  # noqa: N818 - the name of pycaffe
    """A layer for which output coordinates have no place in the input."""


class AxisMismatchException(GraphError):  # noqa: N818 - the name of pycaffe
    """Maps along different axes cannot be combined."""


def _own(fn: Any, *names: str) -> dict[str, Any]:
    """The layer's parameters, given directly or in one of the named messages."""
    for name in names:
        if name in fn.params:
            return dict(fn.params[name])
    return dict(fn.params)


def _spatial(params: dict[str, Any], plain: str, height: str, default: int) -> np.ndarray:
    if height in params or height.replace("_h", "_w") in params:
        pair = [params.get(height, default), params.get(height.replace("_h", "_w"), default)]
        return np.array(pair, np.float64)
    return np.array(params.get(plain, default), np.float64)


def conv_params(fn: Any) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Axis, stride, size of the dilated window and padding of a windowed layer.

    Raises:
        UndefinedMapException: the window has no fixed size.
    """
    params = _own(fn, "convolution_param", "pooling_param", "crop_param")
    if params.get("global_pooling"):
        raise UndefinedMapException(f"{fn.type_name}: global pooling has no coordinate map.")
    size = _spatial(params, "kernel_size", "kernel_h", 0)
    if not size.all():
        raise UndefinedMapException(f"{fn.type_name}: gives no kernel_size.")
    dilation = np.array(params.get("dilation", 1), np.float64)
    stride = _spatial(params, "stride", "stride_h", 1)
    pad = _spatial(params, "pad", "pad_h", 0)
    return int(params.get("axis", 1)), stride, dilation * (size - 1) + 1, pad


def crop_params(fn: Any) -> tuple[int, np.ndarray]:
    """Axis (without the batch) and offset of a Crop."""
    params = _own(fn, "crop_param")
    axis = int(params.get("axis", 2))
    return axis - 1, np.array(params.get("offset", 0), np.float64)


def coord_map(fn: Any) -> CoordMap:
    """The map of one layer.

    Raises:
        UndefinedMapException: the layer type has none.
    """
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, size, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (size - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, size, pad = conv_params(fn)
        return axis, stride, (size - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH:
        return IDENTITY
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis, 1.0, -offset
    raise UndefinedMapException(
        f"{fn.type_name}: has no coordinate map; crops go through windows, crops and element-wise "
        "layers only."
    )


def compose(base_map: CoordMap, next_map: CoordMap) -> CoordMap:
    """The map that applies ``next_map`` first and ``base_map`` to its result.

    Raises:
        AxisMismatchException: they have different axes.
    """
    axis, a, b = base_map
    other, c, d = next_map
    if axis is not None and other is not None and axis != other:
        raise AxisMismatchException(f"maps along axes {axis} and {other} cannot be combined.")
    return (other if axis is None else axis), a * c, a * d + b


def inverse(coord: CoordMap) -> CoordMap:
    """The map the other way round."""
    axis, a, b = coord
    return axis, 1 / a, -b / a


def _ancestors(top: Top, stop: dict[Top, CoordMap] | None) -> dict[Top, CoordMap]:
    """Maps from every ancestor to ``top``; with ``stop`` only as far as its first member."""
    found: dict[Top, CoordMap] = {top: IDENTITY}
    queue = [top]
    while queue:
        current = queue.pop(0)
        if stop is not None and current in stop:
            return found
        bottoms = current.fn.inputs[:1] if current.fn.type_name == "Crop" else current.fn.inputs
        for bottom in bottoms:
            try:
                step = compose(found[current], coord_map(current.fn))
            except UndefinedMapException:
                continue
            if bottom not in found:
                found[bottom] = step
                queue.append(bottom)
    return found


def coord_map_from_to(top_from: Top, top_to: Top) -> CoordMap:
    """The map from ``top_from`` to ``top_to`` through their nearest common ancestor.

    Raises:
        UndefinedMapException: they have none that coordinates can be traced to.
    """
    upward = _ancestors(top_from, None)
    other = _ancestors(top_to, upward)
    common = next((top for top in other if top in upward), None)
    if common is None:
        raise UndefinedMapException(
            f"{top_from.fn.type_name} and {top_to.fn.type_name} have no common ancestor to which "
            "coordinates can be traced."
        )
    return compose(other[common], inverse(upward[common]))


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer that cuts ``top_from`` to where ``top_to`` lies.

    Raises:
        GraphError: the two differ in scale, or the offset is negative or no whole number.
    """
    axis, a, b = coord_map_from_to(top_from, top_to)
    if not np.all(np.asarray(a) == 1):
        raise GraphError(f"cannot crop: the scales differ by {a}.")
    if np.any(np.asarray(b) > 0):
        raise GraphError(f"cannot crop: the offset {-np.asarray(b)} is negative.")
    if np.any(np.round(b) != b):
        raise GraphError(f"cannot crop: the offset {-np.asarray(b)} is no whole number.")
    offset = [int(v) for v in np.atleast_1d(-np.round(b))]
    made: Top = L.Crop(top_from, top_to, crop_param={"axis": (axis or 0) + 1, "offset": offset})
    return made
