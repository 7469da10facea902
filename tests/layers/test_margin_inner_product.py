import math

import numpy as np
import pytest
import torch

from caffe_bridge.errors import DataError, ExportError, ShapeError
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import Array, check_layer, layer_spec_of
from tests.layers.losses import normal

TEXT = 'type: "MarginInnerProduct" margin_inner_product_param {{ num_output: 4 {} }}'
KINDS = {"DOUBLE": 2, "TRIPLE": 3, "QUADRUPLE": 4}
LABELS = np.array([2, 0, 3, 1, 1, 0], np.float32)


def psi(m: int, angle: float) -> float:
    """(-1)^k cos(m t) - 2 k."""
    k = min(int(angle * m / math.pi), m - 1)
    return (-1) ** k * math.cos(m * angle) - 2 * k


def product(m: int, balance: float, x: Array, label: Array, w: Array) -> Array:
    w = w / np.linalg.norm(w, axis=1, keepdims=True)
    y = x.reshape(len(x), -1) @ w.T
    for row, own in zip(range(len(y)) if m > 1 else (), label.astype(int), strict=False):
        norm = np.linalg.norm(x[row])
        angle = math.acos(y[row, own] / norm)
        y[row, own] = (norm * psi(m, angle) + balance * y[row, own]) / (1 + balance)
    return y


@pytest.mark.parametrize("kind", ["SINGLE", *KINDS])
def test_values(kind: str) -> None:
    """Lambda is 5 * (1 + 0.5 * 3)^-2 = 0.8 in the first pass after 2."""
    text = f"type: {kind} base: 5 gamma: 0.5 power: 2 iteration: 2"
    check_layer(
        TEXT.format(text), [normal(6, 3), LABELS], [(6, 4), (1,)],
        lambda x, label, w: [product(KINDS.get(kind, 1), 0.8, x, label, w), np.array([0.8])],
        gradient=False, onnx=False, macs=6 * 3 * 4,
    )  # fmt: skip


def test_all_angles() -> None:
    angles = np.linspace(0.01, math.pi - 0.01, 50)
    x = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    for kind, m in KINDS.items():
        net = Net(layer_spec_of(TEXT.format(f"type: {kind} base: 0"), [x.shape, (50,)], 1, "TRAIN"))
        layer = net.layer("l")
        layer.blobs[0].data = torch.tensor([[2.0, 0.0]] * 4)
        (y,) = layer.run([torch.from_numpy(x), torch.zeros(50)])
        want = [psi(m, angle) for angle in angles]
        np.testing.assert_allclose(y[:, 0].detach(), want, rtol=1e-4, atol=1e-4)


def terms(m: int, c: float) -> tuple[float, float]:
    """SphereFace's factors of the label's weight and of x for |x| = 1, from d psi / d cos."""
    angle = math.acos(c)
    k = min(int(angle * m / math.pi), m - 1)
    slope = (-1) ** k * m * math.sin(m * angle) / math.sin(angle)
    return slope, psi(m, angle) - slope * c


@pytest.mark.parametrize("kind", list(KINDS))
def test_gradients(kind: str) -> None:
    """Of rows x of any length; of the weights it is that of the plain product."""
    m, balance, g = KINDS[kind], 0.5, normal(6, 4, seed=5)
    text = f"type: {kind} base: 0.1 lambda_min: 0.5"
    net = Net(layer_spec_of(TEXT.format(text), [(6, 3), (6,)], 1, "TRAIN"), seed=0)
    layer = net.layer("l")
    layer.blobs[0].data = torch.from_numpy(normal(4, 3, seed=2))
    x = torch.from_numpy(normal(6, 3)).requires_grad_()
    (y,) = layer.run([x, torch.from_numpy(LABELS)])
    y.backward(torch.from_numpy(g))
    w = layer.blobs[0].detach().numpy().astype(np.float64)
    rows = x.detach().numpy().astype(np.float64)
    want = np.zeros((6, 3))
    for i, own in enumerate(LABELS.astype(int)):
        norm = np.linalg.norm(rows[i])
        for j in range(4):
            want[i] += g[i, j] * balance / (1 + balance) * w[j]
            if j != own:
                want[i] += g[i, j] / (1 + balance) * w[j]
                continue
            of_w, of_x = terms(m, rows[i] @ w[own] / norm)
            of_x /= norm
            size = math.hypot(of_w, of_x)
            want[i] += g[i, j] / (1 + balance) * (of_w / size * w[own] + of_x / size * rows[i])
    np.testing.assert_allclose(x.grad, want, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(layer.blobs[0].grad, g.T @ rows, rtol=1e-4, atol=1e-5)


def test_a_pass_shortens_the_weights_and_lambda_falls() -> None:
    text = TEXT.format("type: QUADRUPLE base: 1000 gamma: 0.12 lambda_min: 5 weight_filler { "
                       'type: "xavier" }')  # fmt: skip
    layer = Net(layer_spec_of(text, [(6, 3), (6,)], 2, "TRAIN"), seed=0).layer("l")
    found = [float(layer.run([torch.ones(6, 3), torch.zeros(6)])[1]) for _ in range(3)]
    np.testing.assert_allclose(found, [1000 / (1 + 0.12 * k) for k in (1, 2, 3)], rtol=1e-6)
    assert layer.passes == 3 and "passes" in layer.carried
    np.testing.assert_allclose(layer.blobs[0].detach().norm(dim=1), 1, rtol=1e-6)
    layer.passes = 10**6
    assert float(layer.run([torch.ones(6, 3), torch.zeros(6)])[1]) == 5


def test_axis() -> None:
    check_layer(
        TEXT.format("axis: 2"), [normal(2, 3, 5), LABELS.reshape(2, 3)], [(2, 3, 4)],
        lambda x, label, w: product(1, 1, x.reshape(6, 5), label.reshape(-1), w).reshape(2, 3, 4),
        gradient=False, onnx=False,
    )  # fmt: skip


def test_errors() -> None:
    with pytest.raises(ShapeError, match="num_output is missing"):
        Net(layer_spec_of('type: "MarginInnerProduct"', [(6, 3), (6,)], 1, "TRAIN"))
    with pytest.raises(ShapeError, match="must hold one value for each"):
        Net(layer_spec_of(TEXT.format(""), [(6, 3), (5,)], 1, "TRAIN"))
    net = Net(layer_spec_of(TEXT.format(""), [(6, 3), (6,)], 1, "TRAIN"))
    with pytest.raises(DataError, match="label 4 is outside"):
        net.layer("l").run([torch.ones(6, 3), torch.full((6,), 4.0)])
    with pytest.raises(ExportError, match="needs the label; export only up to 'in0'"):
        export(net)
