import numpy as np
import pytest
import torch

from caffe_bridge.errors import DataError, ExportError, ShapeError
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import Array, layer_spec_of, run_layer

TEXT = 'type: "BoxAnnotatorOHEM" box_annotator_ohem_param {{ {} }}'
SHAPES = [(6, 5), (6,), (6, 1, 1, 1), (6, 2)]


def net(text: str, shapes: list[tuple[int, ...]] = SHAPES) -> Net:
    return Net(layer_spec_of(TEXT.format(text), shapes, 2, "TRAIN"))


def bottoms() -> list[Array]:
    rois = np.zeros((6, 5), np.float32)
    rois[:, 0] = [0, 1, 0, 1, 0, 0]
    loss = np.array([0.1, 0.9, 0.5, 0.2, 0.5, 0.3], np.float32)
    label = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)
    return [rois, loss, label, np.arange(1, 13, dtype=np.float32).reshape(6, 2)]


def test_the_hardest_boxes_of_each_picture() -> None:
    """Two of picture 0 (boxes 2 and 4) and both of picture 1 (boxes 1 and 3)."""
    labels, weights = run_layer(net("roi_per_img: 2 ignore_label: -7"), bottoms())
    assert labels.shape == (6, 1, 1, 1) and weights.shape == (6, 2, 1, 1)
    np.testing.assert_array_equal(labels.reshape(-1), [-7, 1, 2, 3, 4, -7])
    want = bottoms()[3] * np.array([0, 1, 1, 1, 1, 0], np.float32)[:, None]
    np.testing.assert_array_equal(weights[:, :, 0, 0], want)


def test_of_equal_losses_the_first() -> None:
    labels, _ = run_layer(net("roi_per_img: 1"), bottoms())
    np.testing.assert_array_equal(labels.reshape(-1), [-1, 1, 2, -1, -1, -1])


def test_places_of_a_map() -> None:
    """One row of boxes at 1 x 3 places, all of picture 0."""
    rois = np.zeros((1, 5, 1, 3), np.float32)
    loss = np.array([3, 1, 2], np.float32).reshape(1, 1, 1, 3)
    label = np.array([5, 6, 7], np.float32).reshape(1, 1, 1, 3)
    weights = np.arange(6, dtype=np.float32).reshape(1, 2, 1, 3)
    arrays = [rois, loss, label, weights]
    made = run_layer(net("roi_per_img: 2", [a.shape for a in arrays]), arrays)
    np.testing.assert_array_equal(made[0], [[[[5, -1, 7]]]])
    np.testing.assert_array_equal(made[1], weights * [1, 0, 1])


def test_errors() -> None:
    with pytest.raises(ShapeError, match="roi_per_img is missing"):
        net("")
    with pytest.raises(ShapeError, match=r"expected \(boxes, 5\)"):
        net("roi_per_img: 1", [(6, 4), *SHAPES[1:]])
    with pytest.raises(ShapeError, match="bottom 1 of shape"):
        net("roi_per_img: 1", [(6, 5), (5,), *SHAPES[2:]])
    with pytest.raises(ShapeError, match="do not fit boxes"):
        net("roi_per_img: 1", [*SHAPES[:3], (5, 2)])
    made = net("roi_per_img: 1")
    rois = torch.full((6, 5), -1.0)
    with pytest.raises(DataError, match="belongs to picture -1"):
        made.layer("l").run([rois, *(torch.zeros(s) for s in SHAPES[1:])])
    with pytest.raises(ExportError, match="chooses training examples"):
        export(made)
