"""Every form of a layer computes what the portable one does, at any batch."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
import torch

from caffe_bridge.errors import ExportError
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import TARGETS, convert, export, forms_of
from caffe_bridge.onnx_export.verify import compare_models, random_feed, session, verify
from tests.onnx_export.nets import SMALL, conv, entry, fc, layer, names, net

#: Relative to the largest value of an output.
CLOSE = 1e-5


def alone(kind: str, shape: tuple[int, ...], more: str = "") -> Net:
    """A net of one layer ``l`` with random blobs."""
    made = net(entry("data", *shape) + layer(kind, "l", "data", "out", more))
    generator = torch.Generator().manual_seed(1)
    for blob in made.layer("l").blobs:
        blob.data.copy_(torch.randn(blob.shape, generator=generator) * 0.5)
    return made


def lrn(more: str = "") -> str:
    return f"lrn_param {{ {more} }}"


def conv_param(outputs: int, kernel: int, more: str) -> str:
    return (
        f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} {more} "
        'weight_filler { type: "gaussian" std: 0.1 } }'
    )


CASES = {
    "lrn": ("LRN", (2, 7, 5, 3), lrn("alpha: 0.3")),
    "lrn of whole blocks": ("LRN", (2, 64, 3, 2), lrn("alpha: 0.3 local_size: 3")),
    "lrn of blocks and a rest": ("LRN", (2, 75, 1, 3), lrn("alpha: 2 local_size: 7 beta: 0.5")),
    "lrn wider than its channels": ("LRN", (2, 3, 4, 4), lrn("alpha: 1 local_size: 9 k: 2")),
    "lrn, beta 0.6": ("LRN", (2, 40, 3, 3), lrn("alpha: 0.5 beta: 0.6")),
    "lrn, beta 0.25": ("LRN", (2, 33, 3, 3), lrn("alpha: 0.5 beta: 0.25")),
    "lrn, beta 1": ("LRN", (2, 33, 3, 3), lrn("alpha: 0.5 beta: 1")),
    "lrn of many channels": ("LRN", (2, 520, 2, 2), lrn("alpha: 0.5")),
    "lrn of rows": ("LRN", (2, 9), lrn("alpha: 0.5")),
    "lrn within": ("LRN", (2, 3, 5, 7), lrn("norm_region: WITHIN_CHANNEL local_size: 3 alpha: 2")),
    "softmax of maps": ("Softmax", (2, 5, 3, 7), ""),
    "softmax of rows": ("Softmax", (2, 5), ""),
    "softmax of axis 2": ("Softmax", (2, 5, 3, 2), "softmax_param { axis: 2 }"),
    "prelu": ("PReLU", (2, 5, 3, 4), ""),
    "prelu of rows": ("PReLU", (2, 5), ""),
    "prelu of volumes": ("PReLU", (2, 5, 2, 3, 2), ""),
    "prelu, one slope": ("PReLU", (2, 5, 3, 4), "prelu_param { channel_shared: true }"),
    "deconvolution": ("Deconvolution", (2, 4, 5, 3), conv_param(6, 3, "stride: 2 pad: 1")),
    "deconvolution, bilinear": (
        "Deconvolution", (2, 6, 3, 5), conv_param(6, 8, "stride: 4 pad: 2 group: 6"),
    ),
    "deconvolution, stride is kernel": (
        "Deconvolution", (2, 4, 3, 5), conv_param(6, 3, "stride: 3 group: 2 bias_term: false"),
    ),
    "deconvolution, stride 1": ("Deconvolution", (2, 4, 3, 5), conv_param(2, 3, "pad: 1")),
    "deconvolution, stride 1, cut": (
        "Deconvolution", (2, 4, 4, 6), conv_param(2, 2, "pad: 2"),
    ),
    "deconvolution, stride above kernel": (
        "Deconvolution", (2, 4, 3, 5), conv_param(2, 2, "stride: 3"),
    ),
    "deconvolution, rectangular": (
        "Deconvolution", (2, 2, 3, 5), 'convolution_param { num_output: 3 kernel_h: 5 kernel_w: 2 '
        'stride: 2 pad_h: 2 pad_w: 0 }',
    ),
    "convolution, groups of 4": ("Convolution", (2, 16, 5, 3), conv_param(16, 3, "group: 4")),
    "convolution, odd groups": ("Convolution", (2, 9, 5, 3), conv_param(6, 3, "group: 3 pad: 1")),
    "convolution, merged in part": (
        "Convolution", (2, 32, 5, 3), conv_param(64, 3, "group: 8 bias_term: false"),
    ),
    "convolution, one output": ("Convolution", (2, 8, 5, 3), conv_param(4, 3, "group: 4")),
    "average with pads": (
        "Pooling", (2, 3, 7, 5), "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }",
    ),
    "inner product of maps": (
        "InnerProduct", (2, 3, 5, 4), "inner_product_param { num_output: 7 }",
    ),
    "inner product, transposed": (
        "InnerProduct", (2, 3, 5, 4),
        "inner_product_param { num_output: 7 transpose: true bias_term: false }",
    ),
    "inner product of rows": ("InnerProduct", (2, 11), "inner_product_param { num_output: 4 }"),
}  # fmt: skip


def run(model: onnx.ModelProto, feed: Mapping[str, torch.Tensor]) -> list[np.ndarray]:
    made = session(model).run(None, {name: value.numpy() for name, value in feed.items()})
    return [np.asarray(value) for value in made]


@pytest.mark.parametrize("case", CASES)
def test_forms_agree(case: str) -> None:
    kind, shape, more = CASES[case]
    made = alone(kind, shape, more)
    forms = forms_of(made).get("l", ())
    portable = export(made)
    for form in forms:
        model = export(made, forms={"l": form})
        assert {n.domain for n in model.graph.node} <= {""}
        assert compare_models(made, portable, model).worst <= CLOSE, form
        done = verify(made, model, (1, 3, shape[0]))
        assert done.batches == (1, 3, 2)
        assert done.worst <= CLOSE, form
    for target in TARGETS:
        assert verify(made, export(made, target=target), (1, 3)).worst <= CLOSE, target


@pytest.mark.parametrize(
    ("case", "forms"),
    [
        ("lrn", ("band", "operator", "windows", "average")),
        ("lrn of many channels", ("operator", "band", "windows", "average")),
        ("lrn within", ("pad", "pads")),
        ("softmax of maps", ("operator", "exp")),
        ("prelu", ("operator", "relus", "depthwise")),
        ("prelu, one slope", ("operator", "relus", "leaky")),
        ("deconvolution", ("transpose", "phases")),
        ("convolution, groups of 4", ("groups", "merged")),
        ("average with pads", ("pad", "pads")),
        ("inner product of maps", ("gemm", "matmul")),
        ("inner product of rows", ("gemm", "matmul")),
    ],
)  # fmt: skip
def test_forms_of_layers(case: str, forms: tuple[str, ...]) -> None:
    assert forms_of(alone(*CASES[case])) == {"l": forms}


@pytest.mark.parametrize("case", ["softmax of rows", "lrn of rows"])
def test_layers_without_a_choice(case: str) -> None:
    assert forms_of(alone(*CASES[case])) == {}


def ops(made: Net, target: str) -> list[str]:
    return [node.op_type for node in export(made, target=target).graph.node]


@pytest.mark.parametrize(
    ("case", "target", "want"),
    [
        ("lrn", "portable", ["Mul", "Conv", "Sqrt", "Sqrt", "Mul", "Div"]),
        ("lrn", "ort-cuda", ["LRN"]),
        ("lrn of many channels", "portable", ["LRN"]),
        ("average with pads", "portable", ["Pad", "AveragePool"]),
        ("average with pads", "ort-cpu", ["AveragePool"]),
        ("average with pads", "ort-cuda", ["AveragePool"]),
        ("softmax of maps", "ort-cuda", ["Softmax"]),
        ("prelu, one slope", "ort-cpu", ["LeakyRelu"]),
        ("deconvolution, bilinear", "ort-cpu", ["Conv", "DepthToSpace", "Slice"]),
        ("deconvolution, stride 1", "ort-cpu", ["Conv"]),
        ("deconvolution, bilinear", "ort-cuda", ["ConvTranspose"]),
        ("lrn", "ort-cpu", ["Mul", "Conv", "Sqrt", "Sqrt", "Mul", "Div"]),
        ("convolution, groups of 4", "ort-cpu", ["Conv"]),
    ],
)  # fmt: skip
def test_targets_choose(case: str, target: str, want: list[str]) -> None:
    assert ops(alone(*CASES[case]), target) == want


def test_lrn_windows_reshape_to_a_free_batch() -> None:
    made = alone("LRN", (2, 110, 3, 1), lrn("alpha: 0.5"))
    model = export(made, target="ort-cpu")
    assert "Gather" in [node.op_type for node in model.graph.node]
    for batch in (1, 2, 5):
        feed = random_feed(made, batch)
        np.testing.assert_allclose(
            run(model, feed)[0], run(export(made), feed)[0], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("form", ["windows", "average"])
def test_lrn_of_several_rows_an_image(form: str) -> None:
    """The first axis is a multiple of the batch, not the batch."""
    text = entry("data", 2, 12, 2, 3) + layer(
        "Reshape", "r", "data", "r", "reshape_param { shape { dim: -1 dim: 4 dim: 2 dim: 3 } }"
    )
    made = net(text + layer("LRN", "l", "r", "out", lrn("alpha: 0.5")))
    model = export(made, forms={"l": form})
    assert verify(made, model, (1, 3, 5)).batches == (1, 3, 5)
    assert verify(made, model, (1, 3, 5)).worst <= CLOSE


ALEX = (
    entry("data", 2, 3, 35, 35)
    + conv("conv1", "data", "conv1", 96, "stride: 2")
    + layer("ReLU", "relu1", "conv1", "conv1")
    + layer("LRN", "norm1", "conv1", "norm1", lrn("alpha: 0.0001"))
    + layer("Pooling", "pool1", "norm1", "pool1", "pooling_param { kernel_size: 3 stride: 2 }")
    + conv("conv2", "pool1", "conv2", 64, "group: 2 pad: 1")
    + layer("ReLU", "relu2", "conv2", "conv2")
    + layer("LRN", "norm2", "conv2", "norm2", lrn("alpha: 0.0001"))
    + fc("fc6", "norm2", "fc6", 40)
    + layer("Dropout", "drop6", "fc6", "fc6")
    + layer("Softmax", "prob", "fc6", "prob")
)


@pytest.mark.parametrize("target", TARGETS)
def test_a_net_like_alexnet(target: str) -> None:
    made = net(ALEX)
    model = export(made, target=target)
    assert verify(made, model, (1, 3), every_blob=True).require(target).worst <= CLOSE
    assert compare_models(made, export(made), model).worst <= CLOSE
    assert "Dropout" not in [node.op_type for node in model.graph.node]
    assert {p.key: p.value for p in model.metadata_props}["target"] == target
    layers = json.loads({p.key: p.value for p in model.metadata_props}["caffe_layers"])
    assert {"conv1", "norm1", "pool1", "fc6", "prob"} <= set(layers.values())


def test_forms_are_checked() -> None:
    with pytest.raises(ExportError, match="target 'gpu' is not known; use portable, ort-cpu"):
        export(net(SMALL), target="gpu")
    with pytest.raises(ExportError, match="a form is given for 'conv9', which is no layer"):
        export(net(SMALL), forms={"conv9": "band"})
    with pytest.raises(ExportError, match=r"ip .*no ONNX form 'band'; it has gemm, matmul"):
        export(net(SMALL), forms={"ip": "band"})
    with pytest.raises(ExportError, match=r"relu1 .*no ONNX form 'x'; it has just one"):
        export(net(SMALL), forms={"relu1": "x"})


def test_convert_passes_target_and_forms(tmp_path: object) -> None:
    path = convert(net(SMALL), f"{tmp_path}/net.onnx", target="ort-cpu", forms={"ip": "matmul"})
    assert names(onnx.load(path).graph.node)[-2:] == ["ip", "prob"]
    assert [n.op_type for n in onnx.load(path).graph.node][-3:] == ["MatMul", "Add", "Softmax"]


def test_compare_models_sees_a_difference() -> None:
    made = net(SMALL)
    done = compare_models(made, export(made), export(net(SMALL, seed=5)))
    assert done.worst > 1e-3
    assert not done.passed
