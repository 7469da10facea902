from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.errors import SchemaError, ShapeError
from caffe_bridge.schema import write_blob
from tests.layers.losses import check_loss, check_onnx, gradients, labels, normal, softmax

MATRIX = np.abs(normal(5, 5, seed=7))


def infogain(axis: int, ignore: int | None, sizes: object) -> object:
    def reference(x: np.ndarray, label: np.ndarray, matrix: np.ndarray = MATRIX) -> np.ndarray:
        p = np.moveaxis(softmax(x, axis), axis, -1).reshape(-1, x.shape[axis])
        y = label.reshape(-1).astype(int)
        counts = y != ignore
        rows = matrix.reshape(5, 5)[np.where(counts, y, 0)]
        cost = -(rows * np.log(np.maximum(p, 1e-20))).sum(1)[counts].sum()
        return np.asarray(cost / sizes(counts.sum()))

    return reference


@pytest.mark.parametrize(
    ("text", "ignore", "sizes"),
    [
        ("", None, lambda count: count),
        ("ignore_label: 255", 255, lambda count: count),
        ("ignore_label: 1 normalization: BATCH_SIZE", 1, lambda count: 3),
        ("normalization: FULL", None, lambda count: 12),
    ],
)
def test_matrix_from_a_file(tmp_path: Path, text: str, ignore: int | None, sizes: object) -> None:
    path = write_blob(MATRIX.astype(np.float32), tmp_path / "h.binaryproto")
    label = labels(5, 3, 1, 2, 2)
    if ignore is not None:
        label.flat[2] = ignore
    check_loss(
        f'type: "InfogainLoss" infogain_loss_param {{ source: "{path}" }} loss_param {{ {text} }}',
        [normal(3, 5, 2, 2), label],
        infogain(1, ignore, sizes),
    )


def test_matrix_from_a_bottom_and_last_axis() -> None:
    bottoms = [normal(3, 2, 5), labels(5, 3, 2), MATRIX.reshape(1, 1, 5, 5)]
    net = check_loss(
        'type: "InfogainLoss" infogain_loss_param { axis: -1 }',
        bottoms,
        infogain(2, None, lambda count: count),
        onnx=False,
    )
    check_onnx(net, bottoms)


def test_probabilities_are_the_second_top() -> None:
    bottoms = [normal(2, 5), labels(5, 2), MATRIX]
    reference = infogain(1, None, lambda count: count)
    net = check_loss(
        'type: "InfogainLoss"',
        bottoms,
        lambda x, y, h: [reference(x, y, h), softmax(x)],
        tops=[(), (2, 5)],
        onnx=False,
    )
    check_onnx(net, bottoms)


def test_gradient_passes_below_the_floor() -> None:
    bottoms = [np.array([[0.0, 500.0]]), np.zeros(1), np.array([[2.0, 1.0], [0.0, 1.0]])]
    net = check_loss(
        'type: "InfogainLoss"',
        bottoms,
        lambda *_: np.asarray(-2 * np.log(1e-20)),
        gradient=False,
        onnx=False,
    )
    np.testing.assert_allclose(gradients(net, bottoms)[0], [[-2.0, 2.0]])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ShapeError, "has no matrix; give infogain_loss_param.source or a third bottom"),
        ('infogain_loss_param { source: "none.binaryproto" }', SchemaError, "none.binaryproto"),
        ("loss_param { normalize: true }", ShapeError, "normalize is not known here"),
    ],
)
def test_errors(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_loss(f'type: "InfogainLoss" {text}', [normal(2, 5), labels(5, 2)], lambda *_: None)


def test_matrix_of_another_size() -> None:
    with pytest.raises(ShapeError, match="holds 25 values but 4 classes need 4 x 4"):
        check_loss('type: "InfogainLoss"', [normal(2, 4), labels(4, 2), MATRIX], lambda *_: None)
