import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.onnx_export.verify import verify
from tests.helpers import OPSETS, check_layer

INDEX = np.array([[0, 6, 3], [3, 3, 1.75]])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("x", [INDEX, INDEX[0]], ids=["matrix", "vector"])
def test_embed(bias: bool, x: np.ndarray) -> None:
    net = check_layer(
        'type: "Embed" embed_param { input_dim: 7 num_output: 4 '
        f"bias_term: {str(bias).lower()} }}",
        [x],
        [(*x.shape, 4)],
        lambda a, w, *b: w[a.astype(int)] + sum(b),
        onnx=False,
    )
    assert [tuple(blob.shape) for blob in net.layer("l").blobs] == [(7, 4), (4,)][: 1 + bias]
    for opset in OPSETS:
        feed = {"in0": torch.from_numpy(x).float()}
        assert verify(net, feed=feed, opset=opset).require("embed").worst == 0


def test_gradient_of_repeated_rows_is_summed() -> None:
    text = 'type: "Embed" embed_param { input_dim: 7 num_output: 2 bias_term: false }'
    layer = check_layer(text, [INDEX], [(2, 3, 2)], onnx=False).layer("l")
    layer.blobs[0].grad = None
    layer(torch.from_numpy(INDEX)).sum().backward()
    assert layer.blobs[0].grad[:, 0].tolist() == [1.0, 1.0, 0.0, 3.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("wrong", [7.0, -1.0])
def test_a_number_outside_the_table_is_named(wrong: float) -> None:
    x = INDEX.copy()
    x[1, 2] = wrong
    with pytest.raises(ShapeError, match=rf"bottom 'in0' holds {wrong:g}; the table has rows 0 to"):
        check_layer('type: "Embed" embed_param { input_dim: 7 num_output: 4 }', [x], [(2, 3, 4)])


@pytest.mark.parametrize(("text", "name"), [("input_dim: 3", "num_output"), ("", "num_output"),
                                            ("num_output: 3", "input_dim")])  # fmt: skip
def test_the_size_of_the_table_is_needed(text: str, name: str) -> None:
    with pytest.raises(ShapeError, match=f"{name} is missing or zero"):
        check_layer(f'type: "Embed" embed_param {{ {text} }}', [INDEX], [(2, 3, 4)])
