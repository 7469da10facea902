"""MarginInnerProduct: SphereFace's products, harder for the right class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer, between, exactly
from caffe_bridge.layers.loss import check_rows, class_labels
from caffe_bridge.layers.registry import register

#: From the label's cosine: psi, and the factors of the weight and of -x / |x| in its gradient.
_Psi = tuple[Tensor, Tensor, Tensor]


def _double(c: Tensor) -> _Psi:
    s = c.sign()
    return 2 * s * c**2 - 1, 4 * s * c, 2 * s * c**2 + 1


def _triple(c: Tensor) -> _Psi:
    one = (c.abs() - 0.5).sign()
    two = c.sign() * (1 + one) - 2
    return one * (4 * c**3 - 3 * c) + two, one * (12 * c**2 - 3), 8 * one * c**3 - two


def _quadruple(c: Tensor) -> _Psi:
    three = c.sign() * (2 * c**2 - 1).sign()
    four = 2 * c.sign() + three - 3
    return (
        three * (8 * c**4 - 8 * c**2 + 1) + four,
        three * (32 * c**3 - 16 * c),
        three * (24 * c**4 - 8 * c**2 - 1) - four,
    )


_MARGINS: dict[str, Callable[[Tensor], _Psi] | None] = {
    "SINGLE": None, "DOUBLE": _double, "TRIPLE": _triple, "QUADRUPLE": _quadruple,
}  # fmt: skip


class _Product(torch.autograd.Function):
    """Rows x times unit rows w, the label's product with a margin."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, labels: Tensor, kind: str, balance: float
    ) -> Tensor:
        y = x @ w.t()
        margin = _MARGINS[kind]
        ctx.save_for_backward(x, w, labels)
        ctx.kind, ctx.balance = kind, balance
        if margin is None:
            return y
        rows = torch.arange(len(x), device=x.device)
        norm = x.norm(dim=1)
        psi = margin(y[rows, labels] / norm)[0]
        y[rows, labels] = (norm * psi + balance * y[rows, labels]) / (1 + balance)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, w, labels = ctx.saved_tensors
        margin, g = _MARGINS[ctx.kind], grads[0]
        of_x, of_w = g @ w, g.t() @ x
        if margin is not None:
            rows = torch.arange(len(x), device=x.device)
            norm, own = x.norm(dim=1), w[labels]
            cosine = (x * own).sum(1) / norm
            _psi, of_own, along = margin(cosine)
            along = -along / norm
            size = (of_own**2 + along**2).sqrt()
            towards = (of_own / size - 1)[:, None] * own + (along / size)[:, None] * x
            of_x = of_x + (g[rows, labels] / (1 + ctx.balance))[:, None] * towards
        return of_x, of_w, None, None, None


@register("MarginInnerProduct")
class MarginInnerProduct(Layer):
    """Products with unit weights; that of the label's class has an angular margin.

    ``y_j = |x| cos t_j``, and for the label ``|x| (psi(t) + lambda cos t) / (1 + lambda)`` where
    ``psi(t) = (-1)^k cos(m t) - 2 k`` for t in [k pi / m, (k + 1) pi / m] and m = 2, 3, 4.
    Every forward pass first gives the weights length 1 and counts up for
    ``lambda = max(lambda_min, base (1 + gamma iteration)^-power)``.

    Bottoms:
        x: (M, ...) features, flattened from ``axis`` on.
        label: M class numbers; truncated to integers.
    Tops:
        y: (M, num_output); lambda (optional): (1,).
    Blobs:
        weight: (num_output, K), ``weight_filler``; a forward pass changes it.
    Parameters:
        num_output, type (SINGLE: no margin; DOUBLE, TRIPLE, QUADRUPLE: m = 2, 3, 4), axis (1),
        base (1), gamma (0), power (1), lambda_min (0), iteration (0: passes before the first).
    Gradient:
        as SphereFace has it, which is not the derivative: of the weights that of the plain product;
        of x, the label's two terms (along its weight and along x) are scaled to
        ``sqrt(a^2 + b^2) = 1``; none for the label.
    ONNX:
        not possible: it needs the label; export up to its bottom.
    Caffe source:
        margin_inner_product_layer.cpp of wy1iu/sphereface
    Differences:
        one top is enough; snapshots of exact resuming keep the count of passes (there it starts
        again); a label outside the classes is an error.
    """

    param_field = "margin_inner_product_param"
    bottoms = exactly(2)
    tops = between(1, 2)
    no_gradient_bottoms = (1,)
    carried = ("passes",)

    def configure(self) -> None:
        """Check num_output."""
        if self.p.num_output < 1:
            self.fail("num_output is missing or zero; give the number of classes.")
        self.passes = int(self.p.iteration)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Leading axes and num_output, and one lambda."""
        axis = self.axis(self.p.axis, shapes[0])
        if math.prod(shapes[1]) != math.prod(shapes[0][:axis]):
            check_rows(self, [shapes[0], shapes[1]])
        return [(*shapes[0][:axis], int(self.p.num_output)), (1,)][: len(self.spec.tops)]

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """A row for each class."""
        inputs = math.prod(shapes[0][self.axis(self.p.axis, shapes[0]) :])
        return [BlobSpec((int(self.p.num_output), inputs), self.p.weight_filler, "weight")]

    def balance(self) -> float:
        """Lambda of the pass that is under way."""
        p = self.p
        return max(p.base * (1 + p.gamma * self.passes) ** -p.power, float(p.lambda_min))

    def forward(self, x: Tensor, label: Tensor) -> list[Tensor]:
        """Normalise the weights, multiply, and bring in the margin."""
        self.passes += 1
        weight = self.blobs[0]
        with torch.no_grad():
            weight.div_(weight.norm(dim=1, keepdim=True))
        axis = self.axis(self.p.axis, tuple(x.shape))
        rows = x.reshape(math.prod(x.shape[:axis]), -1)
        labels, _counts = class_labels(self, label.reshape(-1), len(weight))
        balance = self.balance()
        y = _Product.apply(rows, weight, labels, str(self.p.type), balance)
        made = [y.reshape(*x.shape[:axis], -1), torch.full((1,), balance, device=x.device)]
        return made[: len(self.spec.tops)]

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Not possible."""
        self.refuse(f"needs the label; export only up to '{self.spec.bottoms[0]}'.")

    def macs(self, shapes: Sequence[Shape]) -> int:
        """Positions * inputs * outputs."""
        return math.prod(shapes[0]) * int(self.p.num_output)
