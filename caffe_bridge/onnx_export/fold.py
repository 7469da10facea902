"""Constant factors and summands of a channel, taken into the weights of the operator before.

``BatchNormalization``, ``Mul`` and ``Add`` with one constant a channel are ``y = a x + b``. When x
comes from a convolution, a matrix product or another BatchNormalization and nobody else reads it,

    a (W * x + c) + b = (a W) * x + (a c + b)

so the node goes and the weights change. Computed in double precision, stored in single.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

Constants = dict[str, onnx.TensorProto]
_TAKES = ("Conv", "ConvTranspose", "Gemm", "BatchNormalization")


def fold(
    nodes: Sequence[onnx.NodeProto],
    initializers: Constants,
    wanted: set[str],
    ranks: Mapping[str, int] | None = None,
) -> list[onnx.NodeProto]:
    """The nodes without those that could be folded; new weights are added to the initializers.

    Args:
        nodes: all nodes in order; those that take something in are changed.
        initializers: constants by name.
        wanted: values that must exist under their own name.
        ranks: how many axes values have, where that is known.
    """
    readers = Counter(name for node in nodes for name in node.input)
    makers: dict[str, onnx.NodeProto] = {}
    kept = []
    for node in nodes:
        source = _operand(node, initializers)
        maker = makers.get(source)
        if maker is not None and readers[source] == 1 and source not in wanted:
            size = _channels(maker, initializers, (ranks or {}).get(source, 0))
            line = _line(node, source, size, initializers)
            if line is not None and _take(maker, *line, initializers):
                del maker.output[:]
                maker.output.append(node.output[0])
                makers[node.output[0]] = maker
                continue
        kept.append(node)
        if node.op_type in _TAKES and len(node.output) == 1 and _constant(node, initializers):
            makers[node.output[0]] = node
    return kept


def _operand(node: onnx.NodeProto, initializers: Constants) -> str:
    """The one input that varies, or "" for nodes that cannot be folded."""
    if node.op_type == "BatchNormalization":
        return str(node.input[0]) if all(n in initializers for n in node.input[1:]) else ""
    if node.op_type not in ("Mul", "Add"):
        return ""
    varying = [name for name in node.input if name not in initializers]
    return varying[0] if len(varying) == 1 else ""


def _constant(node: onnx.NodeProto, initializers: Constants) -> bool:
    """Whether everything but the first input is a constant, and a Gemm is a plain product."""
    plain = node.op_type != "Gemm" or not {a.name for a in node.attribute} - {"transB"}
    return plain and all(name in initializers for name in node.input[1:])


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else float(helper.get_attribute_value(found))


def _channels(maker: onnx.NodeProto, initializers: Constants, rank: int) -> tuple[int, int]:
    """Output channels, and the rank of the output: the given one (0: any) unless it shows."""
    shape = initializers[maker.input[1]].dims
    if maker.op_type == "Conv":
        return int(shape[0]), len(shape)
    if maker.op_type == "ConvTranspose":
        return int(shape[1] * _attribute(maker, "group", 1)), len(shape)
    if maker.op_type == "Gemm":
        return int(shape[0 if _attribute(maker, "transB", 0) else 1]), 2
    return int(shape[0]), rank


def _array(name: str, initializers: Constants) -> np.ndarray:
    return numpy_helper.to_array(initializers[name]).astype(np.float64)


def _line(
    node: onnx.NodeProto, source: str, size: tuple[int, int], initializers: Constants
) -> tuple[np.ndarray, np.ndarray] | None:
    """Factor and summand of every channel, or None when the node is something else."""
    channels, rank = size
    if node.op_type == "BatchNormalization":
        scale, bias, mean, variance = (_array(name, initializers) for name in node.input[1:])
        spread = variance + _attribute(node, "epsilon", 1e-5)
        if scale.shape != (channels,) or not (spread > 0).all():
            return None
        factor = scale / np.sqrt(spread)
        return factor, bias - mean * factor
    value = _array(next(n for n in node.input if n != source), initializers)
    if value.size != 1:
        wide = rank or value.ndim + 1
        shape = (1,) * (wide - value.ndim) + value.shape
        if len(shape) != wide or shape != (1, channels, *(1,) * (wide - 2)):
            return None
        if not rank and value.ndim != 3:
            return None
    elif value.ndim > (rank or 1):
        return None
    spread_out = np.broadcast_to(value.reshape(-1), (channels,))
    if node.op_type == "Mul":
        return spread_out, np.zeros(channels)
    return np.ones(channels), spread_out


def _take(
    maker: onnx.NodeProto, factor: np.ndarray, summand: np.ndarray, initializers: Constants
) -> bool:
    """Change the weights of ``maker``; False when they cannot take it."""
    if maker.op_type == "BatchNormalization":
        _replace(maker, 1, _array(maker.input[1], initializers) * factor, initializers)
        bias = _array(maker.input[2], initializers) * factor + summand
        _replace(maker, 2, bias, initializers)
        return True
    bias = np.zeros_like(summand)
    if len(maker.input) > 2:
        bias = _array(maker.input[2], initializers)
        if bias.shape != summand.shape:
            return False
    if (factor != 1).any():
        weight = _array(maker.input[1], initializers)
        _replace(maker, 1, _scaled(maker, weight, factor), initializers)
    bias = bias * factor + summand
    if len(maker.input) > 2 or bias.any():
        _replace(maker, 2, bias, initializers)
    return True


def _scaled(maker: onnx.NodeProto, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    if maker.op_type == "Gemm" and not _attribute(maker, "transB", 0):
        return weight * factor
    if maker.op_type != "ConvTranspose":
        return weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    groups = int(_attribute(maker, "group", 1))
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    scaled = grouped * factor.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
    return scaled.reshape(weight.shape)


def _replace(
    node: onnx.NodeProto, index: int, value: np.ndarray, initializers: Constants
) -> None:  # fmt: skip
    """Let input ``index`` be a new constant; the old one may have other readers."""
    old = str(node.input[index]) if index < len(node.input) else f"{node.name}.bias"
    name = f"{old.removesuffix('.folded')}.folded"
    while name in initializers and name != old:
        name += "_"
    initializers[name] = numpy_helper.from_array(value.astype(np.float32), name)
    if index < len(node.input):
        node.input[index] = name
    else:
        node.input.append(name)
