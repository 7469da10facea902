"""Building nets: fillers, seeds, shapes, automatic tops, replaced inputs, multipliers."""

from __future__ import annotations

import math

import pytest
import torch

from caffe_bridge.errors import BlobError, ShapeError, UnknownLayerError
from caffe_bridge.graph import parse_net
from caffe_bridge.layers.fillers import fill
from caffe_bridge.net import Built, Net, build, infer_shapes, with_inputs
from caffe_bridge.schema import parse_text

DATA = "layer { name: 'data' type: 'Input' top: 'x' input_param { shape { dim: [2, 3, 6, 6] } } }\n"
CONV = (
    "layer { name: 'conv' type: 'Convolution' bottom: 'x' top: 'c' param { lr_mult: 2 } "
    "param { lr_mult: 0 decay_mult: 0 force_mult: 3 } convolution_param { num_output: 4 "
    "kernel_size: 3 weight_filler { type: 'msra' } bias_filler { value: 0.5 } } }\n"
)
IP = (
    "layer { name: 'ip' type: 'InnerProduct' bottom: 'c' top: 'y' inner_product_param { "
    "num_output: 5 weight_filler { type: 'xavier' } } }\n"
)


def filled(text: str, *shape: int, seed: int = 5) -> torch.Tensor:
    tensor = torch.full(shape, 9.0)
    fill(tensor, parse_text(text, "FillerParameter"), torch.Generator().manual_seed(seed))
    return tensor


def test_constant() -> None:
    assert (filled("value: 0.25", 3, 4) == 0.25).all()
    assert (filled("", 3) == 0).all()


def test_uniform() -> None:
    values = filled("type: 'uniform' min: -2 max: 3", 20000)
    assert -2 <= values.min() < -1.99
    assert 2.99 < values.max() <= 3
    assert abs(values.mean() - 0.5) < 0.05


def test_gaussian() -> None:
    values = filled("type: 'gaussian' mean: 2 std: 0.5", 20000)
    assert abs(values.mean() - 2) < 0.02
    assert abs(values.std() - 0.5) < 0.02


def test_sparse_gaussian() -> None:
    values = filled("type: 'gaussian' std: 1 sparse: 5", 50, 400)
    share = (values != 0).float().mean()
    assert abs(share - 5 / 50) < 0.01
    assert (filled("type: 'gaussian' sparse: 0", 10, 10) == 0).all()


@pytest.mark.parametrize(
    ("norm", "n"), [("FAN_IN", 50 * 9), ("FAN_OUT", 200 * 9), ("AVERAGE", 125 * 9)]
)
def test_xavier_and_msra_use_caffes_fans(norm: str, n: int) -> None:
    xavier = filled(f"type: 'xavier' variance_norm: {norm}", 200, 50, 3, 3)
    bound = math.sqrt(3 / n)
    assert 0.999 * bound < xavier.abs().max() <= bound
    msra = filled(f"type: 'msra' variance_norm: {norm}", 200, 50, 3, 3)
    assert msra.std() == pytest.approx(math.sqrt(2 / n), rel=0.02)


def test_fans_of_a_vector_are_the_count() -> None:
    values = filled("type: 'xavier' variance_norm: FAN_OUT", 3000)
    assert values.abs().max() <= math.sqrt(3 / 3000)
    assert filled("type: 'xavier'", 3000).abs().max() > 1


def test_positive_unitball() -> None:
    values = filled("type: 'positive_unitball'", 6, 3, 4)
    assert (values >= 0).all()
    assert torch.allclose(values.flatten(1).sum(1), torch.ones(6))


@pytest.mark.parametrize(
    ("size", "line"),
    [(4, [0.25, 0.75, 0.75, 0.25]), (3, [0.5, 1.0, 0.5]), (2, [0.5, 0.5]), (1, [1.0])],
)
def test_bilinear(size: int, line: list[float]) -> None:
    values = filled("type: 'bilinear'", 2, 1, size, size)
    wanted = torch.tensor(line)
    assert torch.allclose(values[1, 0], wanted[:, None] * wanted[None, :])


def test_filler_refusals() -> None:
    with pytest.raises(ShapeError, match="filler: the bilinear filler wants"):
        filled("type: 'bilinear'", 2, 1, 3, 4)
    text = DATA + CONV.replace("msra", "normal")
    with pytest.raises(
        ShapeError, match=r"conv \(Convolution\) at n.prototxt:2: filler type 'normal'"
    ):
        build(parse_net(text, source="n.prototxt"))


def weights(seed: int | None) -> list[torch.Tensor]:
    return [blob.value.detach() for blob in Net(parse_net(DATA + CONV + IP), seed=seed).learnable]


def test_a_seed_fixes_the_weights() -> None:
    first, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    torch.manual_seed(8)
    free = weights(None)
    torch.manual_seed(8)
    assert torch.equal(free[0], weights(None)[0])


def test_shapes_and_multipliers() -> None:
    built = build(parse_net(DATA + CONV + IP))
    assert [built.shapes[v.index] for v in built.graph.values] == [
        (2, 3, 6, 6),
        (2, 4, 4, 4),
        (2, 5),
    ]
    found = [
        (b.layer, b.index, b.role, b.lr_mult, b.decay_mult, b.force_mult) for b in built.learnable
    ]
    assert found == [
        ("conv", 0, "weight", 2, 1, 0),
        ("conv", 1, "bias", 0, 0, 3),
        ("ip", 0, "weight", 1, 1, 0),
        ("ip", 1, "bias", 1, 1, 0),
    ]
    assert [b.value.requires_grad for b in built.learnable] == [True, False, True, True]


def blobs(built: Built) -> dict[str, tuple[int, ...]]:
    return {name: built.shapes[v.index] for name, v in built.graph.blobs().items()}


def test_other_input_shapes() -> None:
    spec = parse_net(DATA + CONV)
    built = build(spec, inputs={"x": (1, 3, 9, 8)})
    assert blobs(built) == {"x": (1, 3, 9, 8), "c": (1, 4, 7, 6)}
    shapes = infer_shapes(built.graph, built.layers, {"x": (7, 3, 5, 5)})
    assert shapes == [(7, 3, 5, 5), (7, 4, 3, 3)]
    assert Net(spec).shapes_for({"x": (7, 3, 5, 5)})["c"] == (7, 4, 3, 3)


def test_with_inputs_replaces_makers() -> None:
    text = "layer { name: 'd' type: 'Data' top: 'x' top: 'label' }\n" + CONV
    made = with_inputs(parse_net(text), {"x": (1, 3, 5, 5)})
    assert [(layer.name, layer.type, layer.tops) for layer in made.layers] == [
        ("x", "Input", ("x",)),
        ("conv", "Convolution", ("c",)),
    ]
    assert blobs(build(made))["c"] == (1, 4, 3, 3)
    assert with_inputs(parse_net(DATA + CONV), {}) == parse_net(DATA + CONV)


def test_with_inputs_keeps_the_other_inputs() -> None:
    text = "layer { name: 'i' type: 'Input' top: 'x' top: 'z' input_param { shape { dim: 2 } } }"
    made = with_inputs(parse_net(text), {"x": (4, 5)})
    assert blobs(build(made)) == {"x": (4, 5), "z": (2,)}


def test_with_inputs_refuses_unknown_blobs() -> None:
    with pytest.raises(ShapeError, match="no input or data layer makes 'c'; inputs are x"):
        with_inputs(parse_net(DATA + CONV), {"c": (1,)})


def test_losses_get_their_top() -> None:
    loss = "layer { name: 'l' type: 'EuclideanLoss' bottom: 'x' bottom: 'x' }"
    built = build(parse_net(DATA + loss))
    assert list(blobs(built)) == ["x", "(automatic)_l_0"]
    assert blobs(built)["(automatic)_l_0"] == ()


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        (DATA + CONV.replace("'Convolution'", "'Convolutoin'"), UnknownLayerError, "Did you mean"),
        (DATA + CONV.replace("bottom: 'x'", "bottom: 'q'"), BlobError, "'q' is made by no earlier"),
        (DATA + CONV.replace("bottom: 'x'", ""), ShapeError, "takes at least 1 bottoms, found 0"),
        (
            DATA + "layer { name: 'r' type: 'ReLU' bottom: 'x' top: 'a' top: 'b' }",
            ShapeError,
            "takes 1 tops, found 2: a, b",
        ),
    ],
)
def test_refusals(text: str, error: type, reason: str) -> None:
    with pytest.raises(error, match=reason) as caught:
        build(parse_net(text, source="n.prototxt"))
    assert "n.prototxt:2" in str(caught.value)


def test_inputs_give_shapes_that_the_net_lacks() -> None:
    text = "layer { name: 'data' type: 'Input' top: 'x' top: 'z' }\n" + CONV
    net = Net(parse_net(text), inputs={"x": (1, 3, 5, 5), "z": (1,)})
    assert net.inputs == {"x": (1, 3, 5, 5), "z": (1,)}
    assert net({"x": torch.zeros(1, 3, 5, 5), "z": torch.zeros(1)})["c"].shape == (1, 4, 3, 3)
    with pytest.raises(ShapeError, match="gives 0 shapes for 2 tops"):
        Net(parse_net(text), inputs={"x": (1, 3, 5, 5)})
    with pytest.raises(ShapeError, match="gives no shape for 'z'; name it with its shape too"):
        with_inputs(parse_net(text), {"x": (1, 3, 5, 5)})


def test_inputs_of_unknown_names_are_refused() -> None:
    with pytest.raises(ShapeError, match="no input or data layer makes 'c', 'q'; inputs are x"):
        Net(parse_net(DATA + CONV), inputs={"x": (1, 3, 6, 6), "c": (1,), "q": (1,)})


def test_a_filler_that_does_not_fit_names_its_layer() -> None:
    text = CONV.replace("kernel_size: 3", "kernel_h: 3 kernel_w: 2").replace("msra", "bilinear")
    with pytest.raises(ShapeError, match=r"conv \(Convolution\) .*found shape \(4, 3, 3, 2"):
        build(parse_net(DATA + text))
