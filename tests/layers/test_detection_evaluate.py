from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.errors import DataError, ExportError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import check_layer, net_text

BASE = "num_classes: 3"
#: image, label, instance, corners, difficult
TRUTH = [
    [0, 1, 0, 0.0, 0.0, 0.4, 0.4, 0],
    [0, 1, 1, 0.5, 0.5, 0.9, 0.9, 1],
    [1, 2, 0, 0.2, 0.2, 0.6, 0.6, 0],
    [-1, -1, -1, -1, -1, -1, -1, -1],
]
#: image, label, score, corners
FOUND = [
    [0, 1, 0.5, 0.0, 0.0, 0.4, 0.38],
    [0, 1, 0.9, 0.0, 0.0, 0.4, 0.4],
    [0, 1, 0.7, 0.5, 0.5, 0.9, 0.9],
    [0, 1, 0.2, 0.0, 0.0, 0.1, 0.1],
    [0, 2, 0.3, 0.2, 0.2, 0.6, 0.6],
    [1, 2, 0.8, 0.2, 0.2, 0.6, 0.4],
    [2, -1, -1, -1, -1, -1, -1],
    [0, 0, 0, 0, 0, 0, 0],
]


def net(text: str = BASE, found: list | None = None, truth: list | None = None) -> Net:
    shapes = [(1, 1, len(found or FOUND), 7), (1, 1, len(truth or TRUTH), 8)]
    layer = f'type: "DetectionEvaluate" detection_evaluate_param {{ {text} }}'
    return Net(parse_net(net_text(layer, shapes, 1), "TEST"))


def run(model: Net, found: list | None = None, truth: list | None = None) -> list[list[float]]:
    feed = {"in0": torch.tensor([[found or FOUND]]), "in1": torch.tensor([[truth or TRUTH]])}
    return [[round(v, 5) for v in row] for row in model(feed)["out0"][0, 0].tolist()]


def rows(second: list[float], count: int = 2) -> list[list[float]]:
    return [
        [-1, 1, count, -1, -1],
        [-1, 2, 1, -1, -1],
        [0, 1, 0.9, 1, 0],
        [0, 1, 0.7, *second],
        [0, 1, 0.5, 0, 1],
        [0, 1, 0.2, 0, 1],
        [0, 2, 0.3, 0, 1],
        [1, 2, 0.8, 1, 0],
    ]


def test_marks() -> None:
    assert run(net(BASE + " overlap_threshold: 0.49")) == rows([1, 0])


def test_difficult_boxes_count_for_nothing() -> None:
    text = BASE + " overlap_threshold: 0.49 evaluate_difficult_gt: false"
    assert run(net(text)) == rows([0, 0], 1)


def test_threshold() -> None:
    assert run(net(BASE + " overlap_threshold: 0.6"))[-1] == [1, 2, 0.8, 0, 1]


def test_declared_shape_and_files() -> None:
    found, truth = (np.array([[table]], np.float32) for table in (FOUND[:6], TRUTH))
    want = np.array([[rows([1, 0])]])
    check_layer(
        f'type: "DetectionEvaluate" detection_evaluate_param {{ {BASE} overlap_threshold: 0.49 }}',
        [found, truth],
        [(1, 1, 8, 5)],
        lambda *_: want,
        gradient=False,
        onnx=False,
    )


def test_pixels_of_each_image(tmp_path: Path) -> None:
    sizes = tmp_path / "sizes.txt"
    sizes.write_text("a 10 10\nb 100 100\n")
    model = net(f'{BASE} overlap_threshold: 0.5 name_size_file: "{sizes}"')
    found = [[0, 1, 0.5, 0.0, 0.0, 0.4, 0.19], [1, 1, 0.5, 0.0, 0.0, 0.4, 0.19]]
    truth = [[i, 1, 0, 0.0, 0.0, 0.4, 0.4, 0] for i in range(2)]
    # Rows 0 to 1.9 of 0 to 4, ends included, are 2.9 / 5; in the second image 20 / 41.
    assert [row[3] for row in run(model, found, truth)[2:]] == [1, 0]
    assert [row[3] for row in run(model, found[:1], truth)[2:]] == [1]
    assert [row[3] for row in run(model, found[:1], truth)[2:]] == [0]


def test_boxes_apart_by_less_than_a_pixel(tmp_path: Path) -> None:
    sizes = tmp_path / "sizes.txt"
    sizes.write_text("a 10 10\n")
    model = net(f'{BASE} overlap_threshold: 0.01 name_size_file: "{sizes}"')
    apart = [[0, 1, 0.5, 0.0, 0.0, 0.42, 0.4]]
    assert run(model, apart, [[0, 1, 0, 0.45, 0, 0.9, 0.4, 0]])[2][3:] == [0, 1]
    assert run(model, apart, [[0, 1, 0, 0.41, 0, 0.9, 0.4, 0]])[2][3:] == [1, 0]


def test_file_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read name_size_file"):
        run(net(f'{BASE} name_size_file: "{tmp_path / "none"}"'))
    (tmp_path / "empty").write_text("")
    with pytest.raises(DataError, match="is empty"):
        run(net(f'{BASE} name_size_file: "{tmp_path / "empty"}"'))


def test_background_box() -> None:
    with pytest.raises(DataError, match="bottom 0 has a box of the background label 0"):
        run(net(), [[0, 0, 0.5, 0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "num_classes is missing"),
        (BASE + " overlap_threshold: 0", "must be positive"),
        (
            BASE + ' name_size_file: "x" resize_param { resize_mode: FIT_SMALL_SIZE }',
            "FIT_SMALL_SIZE is not supported",
        ),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        net(text)


def test_wrong_columns() -> None:
    text = net_text(
        f'type: "DetectionEvaluate" detection_evaluate_param {{ {BASE} }}',
        [(1, 1, 2, 7), (1, 1, 2, 7)],
        1,
    )
    with pytest.raises(ShapeError, match=r"bottom 1 .* must be \(1, 1, rows, 8\)"):
        Net(parse_net(text, "TEST"))


def test_onnx_is_refused() -> None:
    with pytest.raises(ExportError, match="one after the other"):
        export(net())
