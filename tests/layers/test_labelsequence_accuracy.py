import numpy as np
import pytest

from caffe_bridge.errors import ExportError, ShapeError
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import layer_spec_of, run_layer

TEXT = 'type: "LabelsequenceAccuracy" labelsequence_accuracy_param {{ blank_label: {} }}'


def accuracy(paths: list[list[int]], labels: list[list[int]], blank: int) -> float:
    scores = np.eye(4, dtype=np.float32)[np.array(paths)]
    rows = np.array(labels, np.float32)
    net = Net(layer_spec_of(TEXT.format(blank), [scores.shape, rows.shape], 1, "TEST"))
    (made,) = run_layer(net, [scores, rows])
    assert made.shape == ()
    return float(made)


def test_collapsed_paths() -> None:
    """1 1 blank 1 2 reads 1 1 2; a symbol that stays is one; nothing but blanks is empty."""
    paths = [[1, 1, 3, 1, 2], [2, 2, 2, 2, 2], [3, 3, 3, 3, 3], [0, 1, 3, 3, 2]]
    assert accuracy(paths, [[1, 1, 2], [2, 3, 3], [3, 3, 3], [0, 1, 2]], 3) == 1
    assert accuracy(paths, [[1, 2, 3], [3, 2, 3], [0, 3, 3], [0, 2, 1]], 3) == 0.25


def test_other_blank() -> None:
    assert accuracy([[0, 1, 1, 0], [2, 0, 2, 3]], [[1, 0, 0], [2, 2, 3]], 0) == 1


def test_errors() -> None:
    with pytest.raises(ShapeError, match="expected"):
        Net(layer_spec_of(TEXT.format(0), [(2, 5, 4), (3, 2)], 1, "TEST"))
    net = Net(layer_spec_of(TEXT.format(0), [(2, 5, 4), (2, 2)], 1, "TEST"))
    with pytest.raises(ExportError, match="compares sequences; export only up to 'in0'"):
        export(net)
