"""Checks for layers with label bottoms: random normal values are no labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from caffe_bridge.net import Net
from caffe_bridge.onnx_export.verify import verify
from tests.helpers import ONNX_CLOSE, OPSETS, check_layer

Array = np.ndarray


def check_onnx(
    net: Net, bottoms: Sequence[Array], batches: Sequence[int] = (), opsets: Sequence[int] = OPSETS
) -> None:
    """The net in onnxruntime, at its own batch and others, repeating the bottoms' rows."""
    own = bottoms[0].shape[0]
    for opset in opsets:
        for batch in (own, *batches):
            rows = np.arange(batch) % own
            feed = {
                f"in{i}": torch.from_numpy(a[rows] if a.shape[0] == own else a)
                for i, a in enumerate(bottoms)
            }
            result = verify(net, feed=feed, opset=opset)
            assert result.differences, "nothing was compared"
            assert max(d.relative for d in result.differences) <= ONNX_CLOSE, result


def check_loss(
    layer: str,
    bottoms: Sequence[Array],
    reference: Callable[..., Any],
    *,
    tops: Sequence[Sequence[int]] = ((),),
    gradient: bool = True,
    onnx: bool = True,
    batches: Sequence[int] = (1, 5),
) -> Net:
    """Hold a loss against a reference, finite differences, files and onnxruntime."""
    arrays = [np.asarray(b, np.float32) for b in bottoms]
    net = check_layer(layer, arrays, tops, reference, gradient=gradient, onnx=False)
    if onnx:
        check_onnx(net, arrays, batches)
    return net


def gradients(net: Net, bottoms: Sequence[Array], wanted: Sequence[int] = (0,)) -> list[Array]:
    """Gradients of the first top for some bottoms, in float32."""
    tensors = [torch.from_numpy(np.asarray(b, np.float32)) for b in bottoms]
    for index in wanted:
        tensors[index].requires_grad_()
    net.layer("l").run(tensors)[0].sum().backward()
    return [tensors[index].grad.numpy() for index in wanted]


def softmax(x: Array, axis: int = 1) -> Array:
    """Probabilities in double precision."""
    power = np.exp(x - x.max(axis, keepdims=True))
    return power / power.sum(axis, keepdims=True)


def normal(*shape: int, seed: int = 0) -> Array:
    """Seeded standard normal values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def labels(classes: int, *shape: int, seed: int = 1) -> Array:
    """Seeded class numbers as floats."""
    return np.random.default_rng(seed).integers(0, classes, shape).astype(np.float32)
