"""Describing a net before it is built."""

from __future__ import annotations

import pytest

from caffe_bridge.graph import parse_net
from caffe_bridge.net import build
from caffe_bridge.net.inspect import APPROXIMATED, EXACT, UNSUPPORTED, NetReport, inspect

INPUT = (
    'name: "n" layer { name: "data" type: "Input" top: "data" '
    "input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }\n"
)
CONV = (
    'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" '
    "convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }\n"
)
FC = (
    'layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" '
    "inner_product_param { num_output: 10 } }\n"
)
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }\n'


def report(text: str, phase: str = "TEST") -> NetReport:
    return inspect(parse_net(text, phase, "net.prototxt"))


def test_shapes_parameters_and_macs() -> None:
    found = report(INPUT + CONV + FC)
    assert found.name == "n"
    assert found.supported
    data, conv, ip = found.layers
    assert (data.shapes, data.parameters, data.macs) == (((2, 3, 8, 8),), 0, 0)
    assert (conv.bottoms, conv.tops) == (("data",), ("conv",))
    assert conv.shapes == ((2, 6, 8, 8),)
    assert conv.parameters == 6 * 3 * 9 + 6
    assert conv.macs == 2 * 6 * 64 * 27
    assert (ip.shapes, ip.parameters, ip.macs) == (((2, 10),), 10 * 384 + 10, 2 * 10 * 384)


def test_it_counts_what_the_built_net_has() -> None:
    spec = parse_net(INPUT + CONV + FC)
    built = build(spec)
    assert sum(layer.parameters for layer in inspect(spec).layers) == sum(
        blob.value.numel() for blob in built.learnable
    )
    shapes = [shape for layer in inspect(spec).layers for shape in layer.shapes]
    assert shapes == [built.shapes[value.index] for value in built.graph.values]


def test_unknown_types_are_reported_and_what_follows_has_no_shapes() -> None:
    found = report(INPUT + CONV.replace("Convolution", "Convolucion") + FC)
    assert not found.supported
    assert found.problems == ()
    data, conv, ip = found.layers
    assert (data.status, data.reason) == (EXACT, "")
    assert conv.status == ip.status == UNSUPPORTED
    assert "'Convolucion' is not known. Did you mean Convolution" in conv.reason
    assert conv.line == 2
    assert ip.reason == "no shape is known for 'conv'."
    assert ip.shapes == ()


def test_broken_shapes_are_reported() -> None:
    found = report(INPUT + CONV.replace("kernel_size: 3", "kernel_size: 30") + FC)
    assert not found.supported
    assert "kernel (30, 30) with pad (1, 1) does not fit" in found.layers[1].reason


def test_a_wrong_number_of_tops_is_reported() -> None:
    text = INPUT + CONV.replace('top: "conv"', 'top: "conv" top: "more"')
    assert "has 1 bottoms and 2 tops" in report(text).layers[1].reason


def test_slices_that_do_not_divide() -> None:
    text = INPUT + 'layer { name: "s" type: "Slice" bottom: "data" top: "a" top: "b" }'
    assert report(text).layers[1].status == UNSUPPORTED
    assert "3" in report(text).layers[1].reason


def test_broken_wiring_is_a_problem_of_the_net() -> None:
    found = report(INPUT + CONV + FC.replace('bottom: "conv"', 'bottom: "cone"'))
    assert not found.supported
    (problem,) = found.problems
    assert "'cone' is made by no earlier layer" in problem
    assert [layer.name for layer in found.layers] == ["data", "conv", "ip"]
    assert all(layer.shapes == () and layer.macs is None for layer in found.layers)


def test_data_that_is_not_here_is_stood_in_for() -> None:
    text = (
        'layer { name: "data" type: "Data" top: "data" top: "label" '
        'data_param { source: "nowhere" batch_size: 2 backend: LMDB } }\n'
    )
    found = report(text + CONV + FC + LOSS)
    assert found.supported
    assert found.layers[0].status == APPROXIMATED
    assert "nowhere" in found.layers[0].reason
    assert "Stood in for by" in found.layers[0].reason
    assert all(layer.shapes for layer in found.layers)


def test_unknown_fields_are_listed_with_their_lines() -> None:
    found = report(INPUT + CONV.replace("pad: 1", "pad: 1 paddle: 2") + "extra: 3")
    assert found.supported
    assert set(found.unknown) == {
        ("layer[conv].convolution_param.paddle", 2), ("extra", 3),
    }  # fmt: skip


def test_losses_get_their_automatic_top() -> None:
    label = INPUT.removeprefix('name: "n" ').replace('"data"', '"label"')
    label = label.replace("dim: 3 dim: 8 dim: 8", "")
    found = report(INPUT + label + CONV + FC + LOSS.replace(' top: "loss"', ""))
    assert found.supported
    assert found.layers[-1].shapes == ((),)


def test_unknown_macs_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from caffe_bridge.layers.convolution import Convolution

    monkeypatch.setattr(Convolution, "macs", lambda _self, _shapes: None)
    assert report(INPUT + CONV).layers[1].macs is None


def test_phases() -> None:
    text = INPUT + CONV + 'layer { name: "d" type: "Dropout" bottom: "conv" top: "conv" ' \
        "include { phase: TRAIN } }"  # fmt: skip
    assert [layer.name for layer in report(text).layers] == ["data", "conv"]
    assert [layer.name for layer in report(text, "TRAIN").layers] == ["data", "conv", "d"]
