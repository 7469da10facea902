import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export.verify import verify
from tests.helpers import net_text
from tests.layers.losses import normal


def net(text: str, shapes: list[tuple[int, ...]], tops: int = 1, kind: str = "LSTM") -> Net:
    filler = 'weight_filler { type: "xavier" }'
    units = "" if "num_output" in text else "num_output: 2"
    layer = f'type: "{kind}" recurrent_param {{ {units} {text} {filler} }}'
    return Net(parse_net(net_text(layer, shapes, tops), "TEST"), seed=1)


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_state_goes_on_until_cont_is_zero(kind: str) -> None:
    x = torch.from_numpy(normal(4, 3, 2))
    long, short = (net("", [(t, 3, 2), (t, 3)], kind=kind) for t in (4, 2))
    whole = long({"in0": x, "in1": torch.ones(4, 3)})["out0"]
    first = short({"in0": x[:2], "in1": torch.ones(2, 3)})["out0"]
    second = short({"in0": x[2:], "in1": torch.ones(2, 3)})["out0"]
    torch.testing.assert_close(torch.cat([first, second]), whole)
    again = short({"in0": x[:2], "in1": torch.tensor([[0.0] * 3, [1.0] * 3])})["out0"]
    torch.testing.assert_close(again, first)
    short.reset_state()
    torch.testing.assert_close(short({"in0": x[:2], "in1": torch.ones(2, 3)})["out0"], first)


def test_no_gradient_across_passes() -> None:
    model = net("", [(2, 1, 2), (2, 1)])
    x = torch.ones(2, 1, 2, requires_grad=True)
    model({"in0": x, "in1": torch.ones(2, 1)})
    model({"in0": torch.ones(2, 1, 2), "in1": torch.ones(2, 1)})["out0"].sum().backward()
    assert x.grad is None


def test_state_of_other_streams_is_forgotten() -> None:
    model = net("", [(2, 3, 2), (2, 3)])
    model({"in0": torch.ones(2, 3, 2), "in1": torch.ones(2, 3)})
    got = model({"in0": torch.ones(2, 1, 2), "in1": torch.ones(2, 1)})["out0"]
    fresh = net("", [(2, 1, 2), (2, 1)])
    torch.testing.assert_close(
        got, fresh({"in0": torch.ones(2, 1, 2), "in1": torch.ones(2, 1)})["out0"]
    )


def test_onnx_starts_from_zeros_with_any_cont() -> None:
    result = verify(net("", [(3, 2, 2), (3, 2)]))
    assert result.differences
    assert result.passed


def test_number_of_streams_may_vary() -> None:
    model = net("", [(2, 3, 2), (2, 3)])
    assert model.shapes_for({"in0": (2, 5, 2), "in1": (2, 5)})["out0"] == (2, 5, 2)


@pytest.mark.parametrize(
    ("text", "shapes", "tops", "message"),
    [
        ("num_output: 0", [(2, 3, 4), (2, 3)], 1, "num_output is missing or zero"),
        ("expose_hidden: true", [(2, 3, 4), (2, 3)], 1, "found 2 bottoms and 1 tops"),
        ("", [(2, 3), (2, 3)], 1, r"shape \(2, 3\) must have the axes \(time, streams"),
        ("", [(2, 3, 4), (2, 2)], 1, r"cont \(bottom 1\) has shape \(2, 2\), expected \(2, 3\)"),
        ("", [(2, 3, 4), (2, 3), (2, 5)], 1, r"x_static .* needs 3 rows"),
        (
            "expose_hidden: true",
            [(2, 3, 4), (2, 3), (1, 3, 2), (1, 3, 5)],
            3,
            r"first state \(bottom 3\) has shape \(1, 3, 5\), expected \(1, 3, 2\)",
        ),
    ],
)
def test_errors(text: str, shapes: list[tuple[int, ...]], tops: int, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        net(text, shapes, tops)


def test_number_of_steps_is_fixed() -> None:
    model = net("", [(2, 3, 4), (2, 3)])
    with pytest.raises(ShapeError, match="built for 2 time steps, bottom 0 now has 5"):
        model.shapes_for({"in0": (5, 3, 4), "in1": (5, 3)})


def test_onnx_of_exposed_states() -> None:
    model = net("expose_hidden: true", [(2, 3, 4), (2, 3), (1, 3, 2), (1, 3, 2)], 3)
    result = verify(model)
    assert {d.blob for d in result.differences} >= {"out0", "out1", "out2"}
    assert result.passed
