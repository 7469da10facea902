"""Number formats, layouts, compilation and refusals of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_bridge.errors import BackendError
from caffe_bridge.graph import NetSpec, parse_net
from caffe_bridge.net import Net, Runtime, RuntimeNet
from caffe_bridge.net.timing import example_feed, time_layers

NET = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 3 dim: 12 dim: 12 } shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
  num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "norm" type: "LRN" bottom: "bn" top: "norm" }
layer { name: "pool" type: "Pooling" bottom: "norm" top: "pool"
  pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool" top: "conv2" convolution_param {
  num_output: 8 kernel_size: 3 group: 2 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "conv2" bottom: "conv2" top: "sum" }
layer { name: "ave" type: "Pooling" bottom: "sum" top: "ave"
  pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "ave" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" }
"""


NORMLESS = NET.replace(
    'layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }', ""
).replace('"Scale" bottom: "bn"', '"Scale" bottom: "conv"')


def spec() -> NetSpec:
    return parse_net(NET, "TRAIN")


def feed() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return {"data": torch.randn(4, 3, 12, 12, generator=random), "label": torch.arange(4.0)}


def trained(net: Net) -> tuple[float, list[torch.Tensor]]:
    loss = net.forward_backward(feed())
    return loss, [b.value.grad.clone() for b in net.learnable if b.value.grad is not None]


def nets(**settings: Any) -> tuple[Net, RuntimeNet]:
    """A plain net and one with the same weights under the settings."""
    torch.manual_seed(0)
    plain = Net(spec())
    runtime = Runtime(**settings)
    runtime.prepare()
    torch.manual_seed(0)
    return plain, RuntimeNet(spec(), runtime)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({}, 0.0),
        ({"channels_last": True}, 2e-5),
        ({"amp": "bf16"}, 0.06),
        ({"amp": "bf16", "channels_last": True}, 0.06),
        ({"amp": "fp16"}, 0.01),
        pytest.param({"compile": True}, 2e-5, marks=pytest.mark.slow),
        pytest.param({"compile": True, "amp": "bf16"}, 0.06, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("default")
def test_loss_and_gradients_stay_the_same(settings: dict[str, Any], tolerance: float) -> None:
    plain, other = nets(**settings)
    (loss, gradients), (loss2, gradients2) = trained(plain), trained(other)
    assert loss2 == pytest.approx(loss, rel=max(tolerance, 1e-7))
    assert len(gradients) == len(gradients2) > 6
    largest = max(float(g.abs().max()) for g in gradients)
    for one, two in zip(gradients, gradients2, strict=True):
        assert two.dtype == torch.float32
        assert float((one - two).abs().max()) <= tolerance * largest
    assert float(other.fetch("accuracy")) == pytest.approx(float(plain.fetch("accuracy")), abs=0.3)


def test_channels_last_is_a_matter_of_memory_only(tmp_path: Path) -> None:
    plain, other = nets(channels_last=True)
    weight = other.learnable[0].value
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    other.forward_backward(feed())
    assert other.fetch("conv").is_contiguous(memory_format=torch.channels_last)
    other.save(tmp_path / "a.caffemodel")
    other.save(tmp_path / "a.caffemodel.h5")
    for name in ("a.caffemodel", "a.caffemodel.h5"):
        again = Net(spec(), weights=tmp_path / name)
        np.testing.assert_array_equal(again.learnable[0].value.detach(), weight.detach())
    plain.load(tmp_path / "a.caffemodel")
    other.load(tmp_path / "a.caffemodel")
    assert not other.learnable[0].value.is_contiguous()


def test_products_run_in_the_low_format_and_sums_in_float32() -> None:
    _, net = nets(amp="bf16")
    net.forward_backward(feed())
    # The float32 bias of an inner product lifts its sum.
    kinds = {name: net.fetch(name).dtype for name in ("conv", "bn", "norm", "pool", "conv2", "ip")}
    low, full = torch.bfloat16, torch.float32
    assert kinds == {"conv": low, "bn": full, "norm": full, "pool": full, "conv2": low, "ip": full}
    assert net.fetch("loss").dtype == full


def test_every_blob_of_a_partial_pass_can_be_computed_again() -> None:
    plain, net = nets()
    net.loss_scale = 8.0
    plain.forward_backward(feed())
    net.forward_backward(feed())
    assert "conv" not in net.values
    again = net.replay()
    assert torch.equal(again["conv"], plain.fetch("conv"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu"}, "'tpu' is not known"),
        ({"device": "cuda:x"}, "'cuda:x' is not known"),
        ({"device": "cuda:99"}, "CUDA devices"),
        ({"amp": "int8"}, "'int8' is not known; use bf16 or fp16"),
        ({"cuda_graph": True}, "need a CUDA device"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        Runtime(**settings).prepare()


SEQUENCE = """
layer { name: "data" type: "Input" top: "x" top: "cont"
  input_param { shape { dim: 3 dim: 2 dim: 4 } shape { dim: 3 dim: 2 } } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "y"
  recurrent_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Reduction" bottom: "y" top: "loss" loss_weight: 1 }
"""
MARGIN = NET.replace('"InnerProduct" bottom: "ave"', '"InnerProduct" bottom: "ave" bottom: "label"')
MARGIN = MARGIN.replace("Inner", "MarginInner").replace("inner_", "margin_inner_")
NVCAFFE = NET.replace('"BatchNorm"', '"BatchNorm" batch_norm_param { scale_bias: true }')


@pytest.mark.parametrize(
    ("text", "plain"), [(SEQUENCE, None), (MARGIN, None), (NET, 1), (NVCAFFE, 3), (NORMLESS, 0)]
)
def test_what_layers_hand_on_rests_before_a_graph_is_recorded(
    text: str, plain: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph cannot run on the CPU: counted is after how many passes one would be recorded."""
    passes: list[int] = []
    recorded: list[int] = []

    def record(net: Any, *_more: object) -> Any:
        recorded.append(passes[-1])
        return lambda batch, _scale: net(batch)

    monkeypatch.setattr("caffe_bridge.net.runtime.RecordedPass", record)
    net = RuntimeNet(parse_net(text, "TRAIN"), Runtime(cuda_graph=True))
    given = feed() if text != SEQUENCE else {"x": torch.randn(3, 2, 4), "cont": torch.ones(3, 2)}
    if plain is None:
        with pytest.raises(BackendError, match=r"hands (state|passes) to its next pass"):
            for _ in range(4):
                net.forward_backward(given)
        assert not recorded
        return
    for index in range(5):
        passes.append(index)
        net.forward_backward(given)
    assert recorded == [plain]


def test_deterministic_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    try:
        first = trained(nets(deterministic=True)[1])
        assert torch.are_deterministic_algorithms_enabled()
        second = trained(nets(deterministic=True)[1])
    finally:
        torch.use_deterministic_algorithms(False)
    assert first[0] == second[0]
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_layer_times_add_up() -> None:
    _, net = nets()
    found = time_layers(net, example_feed(net), 2)
    assert [row.name for row in found.layers] == [layer.name for layer in net.built.layers]
    by_name = {row.name: row for row in found.layers}
    assert by_name["conv2"].forward_ms > 0 and by_name["conv2"].backward_ms > 0
    assert by_name["accuracy"].backward_ms == 0 == by_name["data"].forward_ms
    assert found.forward_ms == pytest.approx(sum(r.forward_ms for r in found.layers))
    assert found.total_ms >= 2 * (found.forward_ms + found.backward_ms)
