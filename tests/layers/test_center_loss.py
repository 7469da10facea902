import numpy as np
import pytest
import torch

from caffe_bridge.errors import DataError, ExportError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import net_text
from tests.layers.losses import check_loss, gradients, normal

TEXT = 'type: "CenterLoss" center_loss_param {{ num_output: 4 {} }}'
LABELS = np.array([2, 0, 2], np.float32)


def loss(x: np.ndarray, label: np.ndarray, centres: np.ndarray) -> float:
    gap = x.reshape(label.size, -1) - centres[label.reshape(-1).astype(int)]
    return (gap**2).sum() / (2 * label.size)


@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 2)])
def test_value_and_gradients(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    net = check_loss(TEXT.format(""), [x, LABELS], loss, gradient=False)
    blob = net.layer("l").blobs[0]
    centres = blob.detach().numpy()
    (grad,) = gradients(net, [x, LABELS])
    gap = x.reshape(3, -1) - centres[[2, 0, 2]]
    np.testing.assert_allclose(grad.reshape(3, -1), gap / 3, rtol=1e-5)
    want = np.zeros_like(centres)
    want[2], want[0] = -(gap[0] + gap[2]) / 3, -gap[1] / 2
    np.testing.assert_allclose(blob.grad, want, rtol=1e-5, atol=1e-6)


def test_centres_move_alike_under_any_weight() -> None:
    net = Net(parse_net(net_text(TEXT.format("") + " loss_weight: 0.1", [(3, 5), (3,)], 1), "TEST"))
    x = torch.from_numpy(normal(3, 5)).requires_grad_()
    layer = net.layer("l")
    (0.1 * layer.run([x, torch.from_numpy(LABELS)])[0]).backward()
    first, moved = x.grad.clone(), layer.blobs[0].grad.clone()
    x.grad, layer.blobs[0].grad = None, None
    layer.run([x, torch.from_numpy(LABELS)])[0].backward()
    torch.testing.assert_close(first * 10, x.grad)
    torch.testing.assert_close(moved, layer.blobs[0].grad)


def test_axis() -> None:
    net = check_loss(
        TEXT.format("axis: 2"), [normal(1, 3, 5), LABELS.reshape(1, 3)], loss,
        gradient=False, onnx=False,
    )  # fmt: skip
    with pytest.raises(ExportError, match="axis 2 has no ONNX form"):
        export(net)


def test_errors() -> None:
    with pytest.raises(ShapeError, match="num_output is missing"):
        Net(parse_net(net_text('type: "CenterLoss"', [(3, 5), (3,)], 1), "TEST"))
    with pytest.raises(ShapeError, match="expected 3 values"):
        Net(parse_net(net_text(TEXT.format(""), [(3, 5), (2,)], 1), "TEST"))
    net = Net(parse_net(net_text(TEXT.format(""), [(3, 5), (3,)], 1), "TEST"))
    with pytest.raises(DataError, match="label"):
        net({"in0": torch.zeros(3, 5), "in1": torch.tensor([0.0, 4.0, 1.0])})
