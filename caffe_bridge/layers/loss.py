"""What the losses and Accuracy share: classes, ignored labels and normalisation, in torch and ONNX.

Caffe source: loss_layer.cpp, softmax_loss_layer.cpp (GetNormalizer).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.errors import DataError
from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.checks import forbid

#: TensorProto element types that Cast takes.
FLOAT, INT64 = 1, 7


class _Floor(torch.autograd.Function):
    """``max(x, least)`` whose gradient passes below the floor too, as Caffe's losses have it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: float) -> Tensor:
        return x.clamp(min=least)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def floor(x: Tensor, least: float) -> Tensor:
    """``max(x, least)`` with gradient 1 everywhere."""
    result: Tensor = _Floor.apply(x, least)
    return result


class Loss(Layer):
    """Base of the losses: one scalar top of weight 1, labels in bottom 1 that get no gradient."""

    bottoms = exactly(2)
    is_loss = True
    auto_tops = True
    no_gradient_bottoms: ClassVar[tuple[int, ...]] = (1,)

    def run(self, bottoms: Sequence[Tensor]) -> list[Tensor]:
        """As of every layer; a bottom without axes is one row."""
        return super().run([b if b.ndim else b.reshape(1) for b in bottoms])

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """A scalar, and for a second top the shape of bottom 0."""
        self.check_bottoms(shapes)
        return [(), *[tuple(shapes[0])] * (len(self.spec.tops) - 1)]

    def check_bottoms(self, shapes: Sequence[Shape]) -> None:
        """Check the bottoms' shapes; by default one label for each row of bottom 0.

        Raises:
            ShapeError: the bottoms break the loss's rule.
        """
        check_rows(self, shapes)


def check_rows(layer: Layer, shapes: Sequence[Shape], position: int = 1) -> None:
    """Check that a bottom holds one number for each row of bottom 0.

    Raises:
        ShapeError: it holds another number of values.
    """
    rows = shapes[0][0] if shapes[0] else 1
    if math.prod(shapes[position]) != rows:
        layer.fail(
            f"bottom {position} of shape {tuple(shapes[position])} must hold one value for each of "
            f"the {rows} rows of bottom 0 (shape {tuple(shapes[0])})."
        )


def check_same(layer: Layer, shapes: Sequence[Shape]) -> None:
    """Check that bottoms 0 and 1 have equal rows.

    Raises:
        ShapeError: the first axis or the number of values differ.
    """
    first, second = shapes[0], shapes[1]
    if tuple(first[:1]) != tuple(second[:1]) or math.prod(first) != math.prod(second):
        layer.fail(
            f"bottoms of shapes {tuple(first)} and {tuple(second)} differ; give both the same rows "
            "with equally many values."
        )


def check_positions(layer: Layer, shapes: Sequence[Shape], axis: int) -> None:
    """Check that bottom 1 holds a label for each position beside the class axis of bottom 0.

    Raises:
        ShapeError: it holds another number of labels.
    """
    wanted = math.prod(shapes[0][:axis]) * math.prod(shapes[0][axis + 1 :])
    if math.prod(shapes[1]) != wanted:
        layer.fail(
            f"labels of shape {tuple(shapes[1])} hold {math.prod(shapes[1])} values but bottom 0 "
            f"of shape {tuple(shapes[0])} needs {wanted}, one for each position beside class axis "
            f"{axis}."
        )


def ignored(layer: Layer) -> int | None:
    """The ``ignore_label`` of the layer's parameters (``self.p``), if any."""
    return int(layer.p.ignore_label) if layer.p.has("ignore_label") else None


def class_labels(
    layer: Layer, labels: Tensor, classes: int, ignore: int | None = None
) -> tuple[Tensor, Tensor]:
    """Labels as class numbers, and which of them count.

    Args:
        layer: the layer, for messages.
        labels: class numbers as floats; truncated as Caffe does.
        classes: number of classes.
        ignore: label of positions to leave out.

    Returns:
        int64 labels with 0 in place of ignored ones, and a boolean mask of those that count.

    Raises:
        DataError: a label that counts is outside 0..classes-1.
    """
    whole = labels.detach().long()
    counts = torch.ones_like(whole, dtype=torch.bool) if ignore is None else whole != ignore
    fine = counts & (whole >= 0) & (whole < classes)
    wrong = fine != counts

    def error() -> DataError:
        return DataError(
            f"{layer.spec.label()}: label {int(whole[wrong][0])} is outside 0..{classes - 1}; "
            f"bottom 0 has {classes} classes"
            f"{'' if ignore is None else f' and the ignored label is {ignore}'}."
        )

    forbid(wrong, error)
    return whole.where(fine, torch.zeros_like(whole)), counts


def normalization(layer: Layer, default: str = "VALID") -> str:
    """The normalisation mode: ``normalization``, else the old ``normalize``, else the default.

    Returns:
        "FULL" (all positions), "VALID" (labels that count), "BATCH_SIZE" (positions before the
        class axis), "NONE" (1) or "PRE_FIXED" (``pre_fixed_normalizer``).
    """
    if layer.p.has("normalization"):
        return str(layer.p.normalization)
    if layer.p.has("normalize"):
        return "VALID" if layer.p.normalize else "BATCH_SIZE"
    return default


def refuse_fork_fields(layer: Layer) -> None:
    """Fail on LossParameter fields of forks that change the loss and are not supported.

    Raises:
        ShapeError: such a field is in use.
    """
    for name in ("label_smoothing", "weight_by_label_freqs", "class_weighting"):
        if layer.p.has(name) and getattr(layer.p, name):
            layer.fail(f"loss_param.{name} is a fork's and is not supported; take it out.")


def normalise(layer: Layer, mode: str, total: Tensor, counts: Tensor, outer: int) -> Tensor:
    """Divide a summed loss by its normaliser, at least 1.

    Args:
        layer: the layer with its LossParameter as ``p``.
        mode: see :func:`normalization`.
        total: the sum.
        counts: boolean mask of the positions that count; any shape.
        outer: positions before the class axis.
    """
    if mode == "VALID":
        return total / counts.sum().clamp(min=1)
    if mode == "PRE_FIXED":
        return total / float(layer.p.pre_fixed_normalizer)
    size = {"FULL": counts.numel(), "BATCH_SIZE": outer}.get(mode, 1)
    return total / max(1, size)


def scalar(e: Emitter, value: float, hint: str) -> str:
    """A float32 scalar constant."""
    return e.constant(np.array(value, np.float32), hint)


def emit_labels(e: Emitter, labels: str, shape: Sequence[int]) -> str:
    """Labels reshaped to ``shape`` and truncated to int64."""
    if tuple(e.shape(labels)) != tuple(shape):
        labels = e.reshape(labels, shape)
    return e.op("Cast", [labels], to=INT64)[0]


def emit_counts(e: Emitter, labels: str, ignore: int | None) -> str | None:
    """Boolean value: which int64 labels count; None when all do."""
    if ignore is None:
        return None
    (same,) = e.op("Equal", [labels, e.constant(np.array(ignore, np.int64), "ignore_label")])
    return e.op("Not", [same])[0]


def emit_one_hot(e: Emitter, labels: str, classes: int, rank: int, axis: int) -> str:
    """Boolean value: which class along ``axis`` is the label's; labels have size 1 there."""
    numbers = np.arange(classes, dtype=np.int64).reshape(
        [classes if i == axis else 1 for i in range(rank)]
    )
    return e.op("Equal", [labels, e.constant(numbers, "classes")])[0]


def emit_sum(e: Emitter, value: str, rank: int, counts: str | None = None) -> str:
    """Sum of a value of some rank over all axes, only where ``counts`` holds."""
    if counts is not None:
        (value,) = e.op("Where", [counts, value, scalar(e, 0.0, "zero")])
    return e.reduce("ReduceSum", value, list(range(rank)), keepdims=False)


def emit_count(e: Emitter, labels: str, rank: int, counts: str | None) -> str:
    """Float scalar: how many labels count."""
    if counts is None:
        (size,) = e.op("Size", [labels])
        return e.op("Cast", [size], to=FLOAT)[0]
    (ones,) = e.op("Cast", [counts], to=FLOAT)
    return emit_sum(e, ones, rank)


def emit_normalised(
    e: Emitter,
    layer: Layer,
    mode: str,
    total: str,
    labels: str,
    rank: int,
    counts: str | None,
    inner: int,
    top: str,
) -> None:
    """Divide a summed loss by its normaliser: the ONNX form of :func:`normalise`.

    Args:
        e: the emitter.
        layer: the layer with its LossParameter as ``p``.
        mode: see :func:`normalization`.
        total: the sum.
        labels: a value with one element for each position, of this ``rank``.
        rank: rank of ``labels`` and ``counts``.
        counts: boolean mask of the positions that count, or None for all.
        inner: positions behind the class axis.
        top: value to make.
    """
    if mode in ("NONE", "PRE_FIXED"):
        fixed = float(layer.p.pre_fixed_normalizer) if mode == "PRE_FIXED" else 1.0
        e.op("Div", [total, scalar(e, fixed, "normalizer")], [top])
        return
    size = emit_count(e, labels, rank, counts if mode == "VALID" else None)
    if mode == "BATCH_SIZE" and inner != 1:
        (size,) = e.op("Div", [size, scalar(e, inner, "inner")])
    (size,) = e.op("Max", [size, scalar(e, 1.0, "one")])
    e.op("Div", [total, size], [top])


def emit_smooth_l1(e: Emitter, bottoms: Sequence[str], knee: float) -> tuple[str, list[str]]:
    """Every element's smooth L1 of the first two bottoms' difference, times the third.

    With m = min(|d|, knee): f = m^2 / (2 knee) + |d| - m.

    Returns:
        The name of f, and all weights (the third bottom on) in the first bottom's shape.
    """
    shape = e.shape(bottoms[0])
    a, b, *weights = (
        v if tuple(e.shape(v)) == tuple(shape) else e.reshape(v, shape) for v in bottoms
    )
    (gap,) = e.op("Sub", [a, b])
    if weights:
        (gap,) = e.op("Mul", [gap, weights[0]])
    (size,) = e.op("Abs", [gap])
    (near,) = e.op("Min", [size, scalar(e, knee, "knee")])
    (square,) = e.op("Mul", [near, near])
    (square,) = e.op("Mul", [square, scalar(e, 0.5 / knee, "half")])
    (far,) = e.op("Sub", [size, near])
    (value,) = e.op("Add", [square, far])
    return value, weights
