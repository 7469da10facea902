import pytest
import torch

from caffe_bridge.errors import ExportError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import check_layer, net_text


def dropout(text: str) -> str:
    return f'type: "Dropout" dropout_param {{ {text} }}'


def train(text: str, phase: str = "TRAIN") -> tuple[torch.Tensor, torch.Tensor]:
    """Output for 10000 twos, and the gradient."""
    net = Net(parse_net(net_text(dropout(text), [(100, 100)], 1), phase))
    torch.manual_seed(0)
    x = torch.full((100, 100), 2.0, requires_grad=True)
    y = net.layer("l")(x)
    y.sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


def test_test_phase_is_the_identity() -> None:
    check_layer(dropout("dropout_ratio: 0.3"), [(2, 3, 4)], [(2, 3, 4)], lambda x: x, in_place=True)


def test_unscaled_training_scales_at_test_time() -> None:
    check_layer(
        dropout("dropout_ratio: 0.25 scale_train: false"),
        [(2, 3)],
        [(2, 3)],
        lambda x: 0.75 * x,
        in_place=True,
    )


@pytest.mark.parametrize(("ratio", "scale_train"), [(0.5, True), (0.2, True), (0.2, False)])
def test_training(ratio: float, scale_train: bool) -> None:
    y, gradient = train(f"dropout_ratio: {ratio} scale_train: {str(scale_train).lower()}")
    factor = 1 / (1 - ratio) if scale_train else 1.0
    kept = y != 0
    assert abs(float(kept.float().mean()) - (1 - ratio)) < 0.02
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 2 * factor))
    torch.testing.assert_close(gradient, kept * factor)


def test_masks_follow_the_seed_and_change() -> None:
    net = Net(parse_net(net_text(dropout(""), [(10, 10)], 1), "TRAIN"))
    x = torch.ones(10, 10)
    torch.manual_seed(1)
    first, second = net.layer("l")(x), net.layer("l")(x)
    torch.manual_seed(1)
    assert torch.equal(net.layer("l")(x), first)
    assert not torch.equal(first, second)


def test_ratio_zero_keeps_everything() -> None:
    y, _ = train("dropout_ratio: 0")
    assert y.eq(2).all()


def test_sampling_at_test_time() -> None:
    y, _ = train("sample_weights_test: true", phase="TEST")
    assert 0.45 < float((y == 0).float().mean()) < 0.55
    net = Net(parse_net(net_text(dropout("sample_weights_test: true"), [(1, 2)], 1)))
    with pytest.raises(ExportError, match=r"l \(Dropout\).*drops values by chance"):
        export(net)


@pytest.mark.parametrize("ratio", [1, 1.5, -0.1])
def test_ratio_outside(ratio: float) -> None:
    with pytest.raises(ShapeError, match=r"dropout_ratio .* must lie in \[0, 1\)"):
        train(f"dropout_ratio: {ratio}")
