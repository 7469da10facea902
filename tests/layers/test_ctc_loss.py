import itertools
import math

import numpy as np
import pytest
import torch

from caffe_bridge.errors import DataError, ExportError, ShapeError
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import Array, layer_spec_of
from tests.layers.losses import check_loss, gradients, normal, softmax

TEXT = 'type: "CtcLoss" ctc_loss_param {{ {} }}'
USUAL = "alphabet_size: 3 time_step: 4 blank_label: 2"


def collapse(path: tuple[int, ...], blank: int) -> list[int]:
    """A path without repetitions, then without blanks."""
    return [s for s, _ in itertools.groupby(path) if s != blank]


def cost(x: Array, label: list[int], blank: int) -> float:
    """Sum over all paths, one by one."""
    p = softmax(x)
    total = sum(
        math.prod(p[t, s] for t, s in enumerate(path))
        for path in itertools.product(range(x.shape[1]), repeat=len(x))
        if collapse(path, blank) == label
    )
    return -math.log(total)


def reference(x: Array, label: Array) -> Array:
    rows = [[int(v) for v in row if v != 2] for row in label.reshape(len(label), -1)]
    return np.array(sum(cost(x[:4, n], row, 2) for n, row in enumerate(rows)) / len(rows))


LABELS = np.array([[0, 1, 2], [1, 2, 1], [2, 2, 2]], np.float32)


def test_all_alignments() -> None:
    """Labels 0 1, then 1 1 (its blank is left out), then none; the fifth step does not count."""
    check_loss(TEXT.format(USUAL), [normal(5, 3, 3), LABELS], reference, gradient=False, onnx=False)


def test_gradient_is_that_of_the_sum() -> None:
    x = normal(4, 3, 3)
    net = Net(layer_spec_of(TEXT.format(USUAL), [x.shape, LABELS.shape], 1, "TRAIN"))
    (grad,) = gradients(net, [x, LABELS])
    for index in ((0, 0, 1), (2, 1, 1), (3, 2, 2)):
        ends = []
        for step in (1e-5, -1e-5):
            moved = x.astype(np.float64)
            moved[index] += step
            ends.append(3 * reference(moved, LABELS))
        assert grad[index] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-4)


def test_a_sequence_without_alignment_costs_nothing() -> None:
    x, label = normal(2, 2, 3), np.array([[0, 0, 1], [0, 2, 2]], np.float32)
    text = TEXT.format("alphabet_size: 3 time_step: 2 blank_label: 2")
    net = Net(layer_spec_of(text, [x.shape, label.shape], 1, "TRAIN"))
    (grad,) = gradients(net, [x, label])
    assert (grad[:, 0] == 0).all() and abs(grad[:, 1]).sum() > 0
    made = net.layer("l").run([torch.from_numpy(x), torch.from_numpy(label)])[0]
    assert made.item() == pytest.approx(cost(x[:, 1], [0], 2) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ("time_step: 4", [(4, 2, 3), (2, 2)], "alphabet_size or time_step is missing"),
        (USUAL, [(3, 2, 3), (2, 2)], "at least 4 steps"),
        (USUAL, [(4, 2, 5), (2, 2)], r"expected \(time, sequences, 3\)"),
        (USUAL, [(4, 2, 3), (3, 2)], r"expected \(2, symbols\)"),
        ("alphabet_size: 3 time_step: 4 blank_label: 3", [(4, 2, 3), (2, 2)], "outside 0..2"),
    ],
)
def test_shapes(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of(TEXT.format(text), shapes, 1, "TRAIN"))


def test_labels() -> None:
    net = Net(layer_spec_of(TEXT.format(USUAL), [(4, 2, 3), (2, 2)], 1, "TRAIN"))
    x = torch.zeros(4, 2, 3)
    with pytest.raises(DataError, match=r"outside 0\.\.2"):
        net.layer("l").run([x, torch.full((2, 2), 3.0)])
    with pytest.raises(DataError, match="all labels are blank"):
        net.layer("l").run([x, torch.full((2, 2), 2.0)])
    with pytest.raises(ExportError, match="sums over all alignments"):
        export(net)
