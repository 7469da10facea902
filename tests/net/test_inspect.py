"""What inspect says of every layer, and what stands for data layers without a source."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_bridge.graph import parse_net
from caffe_bridge.net.inspect import NO_SHAPES, NetReport, inspect
from tests.shared import SHARED, needs_shared

DATA = """layer {{ name: "d" type: "{kind}" top: "data" top: "label" {params} }}
layer {{ name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param {{ num_output: 4 kernel_size: 3 }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "c" top: "ip"
  inner_product_param {{ num_output: 7 }} }}
layer {{ name: "loss" type: "{loss}" bottom: "ip" bottom: "label" top: "loss" }}"""


def report_of(text: str, phase: str = "TEST", source: str = "net.prototxt") -> NetReport:
    return inspect(parse_net(text, phase, source))


def data_net(params: str, kind: str = "Data", loss: str = "SoftmaxWithLoss") -> NetReport:
    return report_of(DATA.format(kind=kind, params=params, loss=loss))


@pytest.mark.parametrize(
    ("kind", "params", "shape"),
    [
        ("Data", 'data_param { source: "mnist_lmdb" batch_size: 8 }', (8, 1, 28, 28)),
        ("Data", 'data_param { source: "cifar10/x" batch_size: 2 }', (2, 3, 32, 32)),
        ("Data", 'data_param { source: "ilsvrc12_lmdb" batch_size: 2 }', (2, 3, 256, 256)),
        ("Data", 'data_param { source: "x" batch_size: 5 }', (5, 3, 224, 224)),
        ("Data", 'transform_param { crop_size: 40 } data_param { source: "x" batch_size: 5 }',
         (5, 3, 40, 40)),
        ("Data", 'transform_param { mean_file: "no" } data_param { source: "x" batch_size: 1 }',
         (1, 3, 224, 224)),
        ("ImageData", 'image_data_param { source: "x" new_height: 20 new_width: 30 }',
         (1, 3, 20, 30)),
        ("ImageData", 'image_data_param { source: "x" is_color: false }', (1, 1, 224, 224)),
        ("ImageData", 'image_data_param { source: "faces-112X96.txt" batch_size: 3 }',
         (3, 3, 112, 96)),
        ("HDF5Data", 'hdf5_data_param { source: "x" batch_size: 6 }', (6, 3, 224, 224)),
    ],
)  # fmt: skip
def test_stand_ins(kind: str, params: str, shape: tuple[int, ...]) -> None:
    report = data_net(params, kind)
    assert report.supported
    data = report.layers[0]
    assert data.status == "approximated"
    assert data.shapes == (shape, (shape[0],))
    assert data.reason.startswith(f"d ({kind}) at net.prototxt:1: ")
    assert "Stood in for by " + "x".join(map(str, shape)) in data.reason
    assert [layer.status for layer in report.layers[1:]] == ["exact"] * 3


def test_labels_take_the_shape_that_their_loss_needs() -> None:
    params = 'data_param { source: "mnist" batch_size: 4 }'
    assert data_net(params, loss="EuclideanLoss").layers[0].shapes[1] == (4, 7)
    assert data_net(params, loss="SigmoidCrossEntropyLoss").layers[0].shapes[1] == (4, 7)


def test_all_targets_of_a_loss_take_its_shape_together() -> None:
    report = report_of("""
layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 4 dim: 8 } } }
layer { name: "d" type: "Python" top: "targets" top: "inside" top: "outside"
  python_param { module: "mine" layer: "Layer" } }
layer { name: "l" type: "SmoothL1Loss" bottom: "x" bottom: "targets" bottom: "inside"
  bottom: "outside" top: "loss" }
""")
    assert report.supported
    assert report.layers[1].shapes == ((4, 8),) * 3


def test_a_pair_in_the_channels_is_found_by_its_slice() -> None:
    report = report_of("""
layer { name: "p" type: "Data" top: "pair" data_param { source: "mnist" batch_size: 4 } }
layer { name: "s" type: "Slice" bottom: "pair" top: "a" top: "b" slice_param { slice_point: 1 } }
""")
    assert report.supported
    assert report.layers[0].shapes == ((4, 2, 28, 28),)
    assert report.layers[1].shapes == ((4, 1, 28, 28),) * 2


def test_what_only_a_fork_has_is_unsupported_but_has_a_shape() -> None:
    params = 'transform_param { color_order: RGB } data_param { source: "x" batch_size: 2 }'
    report = data_net(params)
    assert not report.supported
    assert [layer.status for layer in report.layers] == ["unsupported"] + ["exact"] * 3
    assert "color_order" in report.unsupported[0].reason


def test_a_data_layer_that_is_wrong_itself_is_unsupported() -> None:
    report = data_net('data_param { source: "mnist" }')
    assert not report.supported
    assert "batch_size is 0" in report.unsupported[0].reason


def test_unknown_types_and_what_follows_from_them() -> None:
    report = report_of("""
layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "odd" type: "NoSuchLayer" bottom: "x" top: "y" }
layer { name: "r" type: "ReLU" bottom: "y" top: "z" }
""")
    assert [layer.status for layer in report.layers] == ["exact", "unsupported", "unsupported"]
    assert report.layers[1].reason.startswith("odd (NoSuchLayer) at net.prototxt:3: ")
    assert report.layers[2].reason == NO_SHAPES


def test_a_field_without_effect_makes_a_layer_approximated() -> None:
    report = report_of("""
layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "r" type: "ReLU" bottom: "x" top: "x" strange: 3 }
""")
    assert report.supported
    assert report.layers[1].status == "approximated"
    assert report.layers[1].reason.endswith("'strange' (line 3) is unknown and has no effect.")


def test_tops_of_fast_rcnns_data_layer() -> None:
    tops = ["data", "rois", "labels", "bbox_targets", "bbox_inside_weights", "bbox_outside_weights"]
    report = report_of(
        f"""layer {{ name: "d" type: "Python" {" ".join(f'top: "{top}"' for top in tops)}
          python_param {{ module: "roi_data_layer.layer" layer: "RoIDataLayer"
            param_str: "'num_classes': 4" }} }}
        layer {{ name: "p" type: "ROIPooling" bottom: "data" bottom: "rois" top: "p"
          roi_pooling_param {{ pooled_w: 2 pooled_h: 2 spatial_scale: 0.06 }} }}
        layer {{ name: "b" type: "InnerProduct" bottom: "p" top: "b"
          inner_product_param {{ num_output: 16 }} }}
        layer {{ name: "l" type: "SmoothL1Loss" top: "l"
          bottom: "b" {" ".join(f'bottom: "{top}"' for top in tops[3:])} }}"""
    )
    assert report.supported
    assert report.layers[0].shapes[1:] == ((128, 5), (128,), *[(128, 16)] * 3)


def test_wiring_is_a_problem_of_the_net() -> None:
    report = report_of('layer { name: "r" type: "ReLU" bottom: "x" top: "y" }')
    assert not report.supported
    assert "made by no earlier layer" in report.problems[0]
    assert [layer.status for layer in report.layers] == ["exact"]


def test_a_phase_without_layers_is_a_problem() -> None:
    text = 'layer { name: "d" type: "Input" top: "d" include { phase: TRAIN } }'
    assert "has no layers in the TEST phase" in report_of(text).problems[0]


@needs_shared
def test_a_real_training_net() -> None:
    path = Path("BVLC+caffe/examples/mnist/lenet_train_test.prototxt")
    text = (SHARED / "prototxt" / path).read_text()
    for phase, batch in (("TRAIN", 64), ("TEST", 100)):
        report = report_of(text, phase)
        assert report.supported
        assert report.layers[0].shapes == ((batch, 1, 28, 28), (batch,))
        assert sum(layer.parameters for layer in report.layers) == 431_080
