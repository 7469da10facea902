"""Compiled training passes: one graph, the same numbers, and layers that torch cannot trace."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from caffe_bridge.errors import BackendError, DataError
from caffe_bridge.graph import NetSpec, load_net, parse_net
from caffe_bridge.layers.python import allow_python_layers
from caffe_bridge.net import Net, Runtime, RuntimeNet
from caffe_bridge.net.build import with_inputs
from caffe_bridge.net.compiled import CompiledPass

SOLVERS = Path(__file__).parents[2] / "solvers"
HEAD = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } shape { dim: 4 } } }
"""
CONV = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
  num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "pool" type: "Pooling" bottom: "bn" top: "pool"
  pooling_param { kernel_size: 3 stride: 2 } }
"""
END = """
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  loss_weight: 0.5 }
layer { name: "side" type: "InnerProduct" bottom: "pool" top: "side" propagate_down: false
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "side_loss" type: "SoftmaxWithLoss" bottom: "side" bottom: "label" top: "side_loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" }
"""
SMALL = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
DROPOUT = """
layer { name: "drop" type: "Dropout" bottom: "pool" top: "pool"
  dropout_param { dropout_ratio: 0.5 } }
"""
PYTHON = """
layer { name: "twice" type: "Python" bottom: "pool" top: "twice"
  python_param { module: "tests.layers.user_layers" layer: "Doubler" param_str: "2" } }
layer { name: "half" type: "Power" bottom: "twice" top: "half" power_param { scale: 0.5 } }
layer { name: "sum" type: "Eltwise" bottom: "half" bottom: "pool" top: "sum" }
"""


class Counting:
    """A backend that runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, module: torch.fx.GraphModule, examples: list[Any]) -> Callable[..., Any]:
        self.graphs += 1
        return module.forward


def feed(seed: int = 1, size: int = 4) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {"data": torch.randn(size, 3, 8, 8, generator=random), "label": torch.arange(size) % 4.0}


def compiled(spec: NetSpec, **settings: Any) -> tuple[RuntimeNet, Counting, list[str]]:
    torch.manual_seed(0)
    net, backend, lines = RuntimeNet(spec, Runtime(compile=True, **settings)), Counting(), []
    net.forward_pass = CompiledPass(net, lines.append, backend)
    return net, backend, lines


def plain(spec: NetSpec) -> Net:
    torch.manual_seed(0)
    return Net(spec)


def step(net: Net, batch: dict[str, Tensor], passes: int = 1) -> float:
    """One iteration of plain SGD, in place as the solver's."""
    for blob in net.learnable:
        blob.value.grad = None
    loss = sum(net.forward_backward(batch) for _ in range(passes))
    with torch.no_grad():
        for blob in net.learnable:
            if blob.value.grad is not None:
                blob.value.sub_(blob.value.grad, alpha=0.1)
    return loss


def train(net: Net, steps: int = 3, passes: int = 1) -> list[float]:
    return [step(net, feed(number), passes) for number in range(steps)]


def same_blobs(one: Net, two: Net) -> None:
    for mine, theirs in zip(one.learnable, two.learnable, strict=True):
        torch.testing.assert_close(mine.value, theirs.value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"channels_last": True}])
@pytest.mark.parametrize("passes", [1, 2])
def test_one_graph_and_the_numbers_of_the_plain_net(settings: dict[str, Any], passes: int) -> None:
    spec = parse_net(HEAD + CONV + END, "TRAIN")
    net, backend, lines = compiled(spec, **settings)
    other = plain(spec)
    assert train(net, passes=passes) == pytest.approx(train(other, passes=passes), abs=1e-5)
    assert backend.graphs == 1 and not lines
    same_blobs(net, other)
    assert float(net.fetch("accuracy")) == float(other.fetch("accuracy"))


def test_low_precision_is_one_graph_too() -> None:
    spec = parse_net(HEAD + CONV + END, "TRAIN")
    net, backend, lines = compiled(spec, amp="bf16")
    assert train(net) == pytest.approx(train(plain(spec)), rel=0.05)
    assert backend.graphs == 1 and not lines


def test_nets_of_one_process_compile_by_themselves() -> None:
    for size in (2, 3, 4):
        shapes = {"data": (size, 3, 8, 8), "label": (size,)}
        net, backend, _ = compiled(with_inputs(parse_net(HEAD + SMALL, "TRAIN"), shapes))
        step(net, feed(size=size))
        step(net, feed(2, size=size))
        assert backend.graphs == 1


def test_other_batch_sizes_share_one_more_graph() -> None:
    net, backend, lines = compiled(parse_net(HEAD + SMALL, "TRAIN"))
    for size in (4, 2, 3, 5, 4):
        step(net, feed(size=size))
    assert backend.graphs == 2 and not lines


def test_dropout_draws_anew_in_every_pass() -> None:
    spec = parse_net(HEAD + CONV + DROPOUT + END, "TRAIN")
    net, backend, lines = compiled(spec)
    torch.manual_seed(3)
    losses = [net.forward_backward(feed()) for _ in range(200)]
    assert backend.graphs == 1 and not lines
    assert len(set(losses)) > 190
    other = plain(spec)
    expected = torch.tensor([other.forward_backward(feed()) for _ in range(200)])
    error = float(expected.std()) * (2 / 200) ** 0.5
    assert abs(sum(losses) / 200 - float(expected.mean())) < 4 * error


@pytest.mark.parametrize("name", ["lenet", "cifar10_full", "cifar10_resnet20", "alexnet"])
def test_recipes_are_one_graph(name: str) -> None:
    sizes = {"lenet": (1, 28, 28), "alexnet": (3, 227, 227)}
    size = sizes.get(name, (3, 32, 32))
    spec = load_net(SOLVERS / name / "train_test.prototxt", "TRAIN")
    net, backend, lines = compiled(with_inputs(spec, {"data": (2, *size), "label": (2,)}))
    for number in range(2):
        random = torch.Generator().manual_seed(number)
        batch = {"data": torch.randn(2, *size, generator=random), "label": torch.arange(2.0)}
        assert step(net, batch) > 0
    assert backend.graphs == 1 and not lines


def test_a_wrong_label_is_named_by_its_layer() -> None:
    net, _, _ = compiled(parse_net(HEAD + SMALL, "TRAIN"))
    step(net, feed())
    batch = {**feed(), "label": torch.tensor([0.0, 1.0, 7.0, 2.0])}
    with pytest.raises(DataError, match=r"loss \(SoftmaxWithLoss\).*: label 7 is outside 0\.\.4"):
        step(net, batch)


def test_python_layers_run_between_compiled_pieces(request: pytest.FixtureRequest) -> None:
    before = allow_python_layers()
    request.addfinalizer(lambda: allow_python_layers(before))
    spec = parse_net(HEAD + CONV + PYTHON + END.replace("pool", "sum"), "TRAIN")
    net, backend, lines = compiled(spec)
    other = plain(spec)
    assert train(net) == pytest.approx(train(other), abs=1e-5)
    same_blobs(net, other)
    assert backend.graphs == 2
    assert len(lines) == 1 and "1 of 14 layers run as they are" in lines[0]
    assert "twice (Python)" in lines[0] and "in 2 pieces" in lines[0]


def test_what_torch_cannot_trace_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse_net(HEAD + SMALL, "TRAIN")
    net, backend, lines = compiled(spec)
    relu = net.layer("relu")
    forward = type(relu).forward

    def looks(self: Any, x: Tensor) -> Tensor:
        return forward(self, x if float(x.detach().sum()) > -1e30 else -x)

    monkeypatch.setattr(type(relu), "forward", looks)
    assert train(net) == pytest.approx(train(plain(spec)), abs=1e-5)
    assert backend.graphs == 2
    assert len(lines) == 1 and "relu (ReLU)" in lines[0]


@pytest.mark.parametrize("declared", [True, False])
def test_a_changing_number_does_not_compile_for_ever(
    declared: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = parse_net(HEAD + SMALL, "TRAIN")
    net, backend, lines = compiled(spec)
    relu = net.layer("relu")
    forward = type(relu).forward

    def counts(self: Any, x: Tensor) -> Tensor:
        self.passes += 1
        return forward(self, x) / self.passes

    monkeypatch.setattr(type(relu), "forward", counts)
    monkeypatch.setattr(type(relu), "carried", ("passes",) if declared else ())
    monkeypatch.setattr(type(relu), "passes", 0, raising=False)
    steps = 12 if declared else 20
    assert train(net, steps) == pytest.approx(train(plain(spec), steps), abs=1e-5)
    assert backend.graphs <= (10 if declared else 16)
    told = "relu (ReLU) at <text>:7" if declared else "changes with every pass"
    assert len(lines) == 1 and told in lines[0]
    assert "recompile_limit" not in capfd.readouterr().err


def test_a_missing_compiler_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError, match="needs a C\\+\\+ compiler, and there is no no-such-"):
        Runtime(compile=True).prepare()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_generated_kernels_give_the_same_numbers() -> None:
    spec = parse_net(HEAD + CONV + END, "TRAIN")
    torch.manual_seed(0)
    net = RuntimeNet(spec, Runtime(compile=True))
    other = plain(spec)
    assert train(net) == pytest.approx(train(other), abs=1e-5)
    same_blobs(net, other)
