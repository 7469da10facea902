import numpy as np
import pytest

from caffe_bridge.errors import ExportError, ShapeError
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import check_layer, layer_spec_of

SHAPE = (3, 2, 4)


@pytest.mark.parametrize(
    ("text", "axes"), [("", (0,)), ("axis: 2", (2,)), ("axis: -2", (1,)), ("axis: [0, 2]", (0, 2))]
)
def test_axes(text: str, axes: tuple[int, ...]) -> None:
    check_layer(
        f'type: "Reverse" reverse_param {{ {text} }}',
        [SHAPE],
        [SHAPE],
        lambda x: np.flip(x, axes),
    )


def test_sequences() -> None:
    indicator = np.array([[0, 0, 1, 1], [1, 1, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0]], np.float32)

    def reference(x: np.ndarray, _: np.ndarray) -> np.ndarray:
        y = np.zeros_like(x)
        for n, length in enumerate((2, 4, 1, 2)):
            y[:length, n] = x[:length, n][::-1]
        return y

    net = check_layer('type: "Reverse"', [(4, 4, 3), indicator], [(4, 4, 3)], reference, onnx=False)
    with pytest.raises(ExportError, match="an indicator has no ONNX form"):
        export(net)


def test_a_sequence_has_a_step() -> None:
    check_layer(
        'type: "Reverse"',
        [(2, 1, 1), np.zeros((2, 1))],
        [(2, 1, 1)],
        lambda x, _: x * [[[1.0]], [[0.0]]],
        onnx=False,
    )


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ("axis: 3", [SHAPE], "axis 3 is outside"),
        ("axis: [1, -2]", [SHAPE], "names an axis twice"),
        ("axis: 1", [SHAPE, (3, 2)], "keep one"),
        ("", [SHAPE, (3, 3)], r"takes bottoms \(T, N, C\) and \(T, N\)"),
    ],
)
def test_errors(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of(f'type: "Reverse" reverse_param {{ {text} }}', shapes, 1, "TEST"))
