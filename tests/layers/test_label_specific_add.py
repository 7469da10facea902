import numpy as np
import pytest

from caffe_bridge.errors import DataError, ExportError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import check_layer, net_text, run_layer
from tests.layers.losses import check_onnx

TEXT = 'type: "LabelSpecificAdd" label_specific_add_param { bias: -0.35 transform_test: true }'
X = np.array([[0.5, 0.9, -0.2], [0.1, 0.3, 0.8], [0.36, 0, 0]], np.float32)
LABELS = np.array([1, 1, 0], np.float32)


def test_training() -> None:
    want = X.astype(float)
    want[0, 1] -= 0.35
    want[2, 0] -= 0.35
    net = check_layer(
        TEXT, [X, LABELS], [(3, 3)], lambda *_: want, phase="TRAIN", onnx=False
    )  # fmt: skip
    with pytest.raises(ExportError, match="export the net of the TEST phase"):
        export(net)


def test_testing_leaves_the_scores() -> None:
    net = check_layer(TEXT, [X, LABELS[:, None]], [(3, 3)], lambda x, _: x, onnx=False)
    check_onnx(net, [X, LABELS[:, None]], [1, 5])


def test_errors() -> None:
    with pytest.raises(ShapeError, match="must have a label for each row"):
        Net(parse_net(net_text(TEXT, [(3, 3), (2,)], 1), "TEST"))
    net = Net(parse_net(net_text(TEXT, [(3, 3), (3,)], 1), "TRAIN"))
    with pytest.raises(DataError, match="label"):
        run_layer(net, [X, LABELS + 2])
