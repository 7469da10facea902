from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_bridge.compress import LayerPlan
from caffe_bridge.graph import net_record, parse_net
from caffe_bridge.net import Net
from caffe_bridge.schema import parse_text, upgrade_net
from tests.compress.checks import decompose, filled, outputs

TOP = (
    'layer { name: "x" type: "Input" top: "x" '
    "input_param { shape { dim: 2 dim: 3 dim: 5 dim: 5 } } }"
)
FILLED = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" std: 0.5 }'
X = np.random.default_rng(1).normal(size=(2, 3, 5, 5)).astype(np.float32)
LAYERS = {
    "Convolution": f"convolution_param {{ num_output: 6 kernel_size: 3 {FILLED} %s }}",
    "Deconvolution": f"convolution_param {{ num_output: 6 kernel_size: 3 {FILLED} %s }}",
    "InnerProduct": f"inner_product_param {{ num_output: 6 {FILLED} %s }}",
}


def text(kind: str, more: str, after: str = "") -> str:
    param = LAYERS[kind] % more
    return f'{TOP}\nlayer {{ name: "a" type: "{kind}" bottom: "x" top: "a" {param} }}\n{after}'


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("slope", [0.0, 0.25])
def test_is_the_rectifier_after_the_layer(kind: str, slope: float) -> None:
    _, weights = filled(text(kind, ""))
    plain = outputs(text(kind, "negative_slope: 0.25"), weights, X)["a"]
    more = f"relu: true negative_slope: {slope}" if slope else "relu: 1"
    fused = outputs(text(kind, more), weights, X)["a"]
    assert (plain < 0).any()
    np.testing.assert_array_equal(fused, np.where(plain > 0, plain, np.float32(slope) * plain))


def test_the_record_keeps_it_and_the_spec_has_a_layer() -> None:
    taken = 'layer { name: "a_relu" type: "Power" bottom: "a" top: "b" }'
    written = text("Convolution", "relu: true", taken)
    record = upgrade_net(parse_text(written, "NetParameter", "net"))
    spec = parse_net(written)
    assert record.layer[1].convolution_param.relu
    assert [layer.name for layer in spec.layers] == ["x", "a", "a_relu_", "a_relu"]
    assert not net_record(spec).layer[1].convolution_param.relu


def test_every_top_is_rectified() -> None:
    both = text("Convolution", "relu: true").replace(
        'bottom: "x" top: "a"', 'bottom: "x" bottom: "x" top: "a" top: "b"'
    )
    tops = outputs(both, filled(both)[1], X)
    assert (tops["b"] == 0).any()
    np.testing.assert_array_equal(tops["a"], tops["b"])


def test_only_the_last_half_of_a_decomposed_layer_has_it() -> None:
    written = text("Convolution", "relu: true")
    _, weights = filled(written)
    low, low_weights, _ = decompose(written, weights, [LayerPlan("a", "pca", 6)])
    assert low.count("relu: true") == 1
    np.testing.assert_allclose(
        outputs(low, low_weights, X)["a"], outputs(written, weights, X)["a"], atol=1e-5
    )


def test_the_rectified_top_counts_towards_the_loss() -> None:
    more = text("InnerProduct", "relu: true").replace('top: "a"', 'top: "a" loss_weight: 0.5')
    plan, weights = parse_net(more), filled(more)[1]
    net = Net(plan, weights=weights)
    values = outputs(more, weights, X)["a"]
    assert (values == 0).any()
    assert net.evaluate({"x": torch.from_numpy(X)}) == pytest.approx(0.5 * values.sum(), rel=1e-5)
