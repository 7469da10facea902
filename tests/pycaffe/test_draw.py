from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import BridgeError, SchemaError
from caffe_bridge.graph import parse_net
from caffe_bridge.graph.draw import describe, net_layout
from caffe_bridge.pycaffe.draw import draw_net, draw_net_to_file
from tests.pycaffe.nets import DEPLOY, TRAIN, write
from tests.shared import SHARED, needs_shared

BRANCHES = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 4 dim: 8 dim: 8 } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a"
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "r" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "Pooling" bottom: "x" top: "b" pooling_param { kernel_h: 2 kernel_w: 3 } }
layer { name: "c" type: "Pooling" bottom: "a" top: "c" pooling_param { global_pooling: true } }
layer { name: "j" type: "Eltwise" bottom: "x" bottom: "b" bottom: "c" top: "j" }
"""


def test_every_layer_stands_in_the_svg() -> None:
    text = draw_net(write("n.prototxt", DEPLOY), "TB", "svg", caffe.TEST).decode()
    ET.fromstring(text)
    assert all(f">{name}<" in text for name in ("data", "a/conv", "ip", "prob"))
    assert "+ ReLU (relu)" in text
    assert "Convolution 3x3 &gt; 4" in text


@pytest.mark.parametrize("horizontal", [False, True])
def test_boxes_do_not_overlap_and_edges_go_forward(horizontal: bool) -> None:
    made = net_layout(parse_net(BRANCHES), horizontal)
    boxes = [box for box in made.boxes if not box.hidden]
    assert len(boxes) == 5
    for number, one in enumerate(boxes):
        assert one.width / 2 <= one.x <= made.width - one.width / 2
        assert one.height / 2 <= one.y <= made.height - one.height / 2
        for other in boxes[number + 1 :]:
            apart_x = abs(one.x - other.x) >= (one.width + other.width) / 2
            apart_y = abs(one.y - other.y) >= (one.height + other.height) / 2
            assert apart_x or apart_y
    assert len(made.paths) == 6
    for path in made.paths:
        ranks = [made.boxes[index].rank for index in path]
        assert ranks == list(range(ranks[0], ranks[0] + len(path)))


def test_descriptions() -> None:
    shown = {layer.name: describe(layer) for layer in parse_net(BRANCHES).layers}
    assert shown == {
        "in": "Input", "a": "Convolution 3x3 s2 p1 > 4", "r": "ReLU", "b": "max Pooling 2x3",
        "c": "max Pooling global", "j": "Eltwise sum",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "head"), [("n.png", b"\x89PNG"), ("n.pdf", b"%PDF")])
def test_pictures(name: str, head: bytes) -> None:
    draw_net_to_file(write("n.prototxt", TRAIN), name, "LR", caffe.TRAIN)
    assert Path(name).read_bytes().startswith(head)


def test_dot_has_blobs_and_layers() -> None:
    text = draw_net(write("n.prototxt", TRAIN), "LR", "dot").decode()
    assert text.startswith('digraph "small" {\n  rankdir=LR;')
    assert '"blob ip_blob" -> "layer 3";' in text


def test_net_parameter_and_phase() -> None:
    n = caffe.NetSpec()
    n.data = caffe.layers.Input(shape={"dim": [1, 2]})
    n.drop = caffe.layers.Dropout(n.data, include={"phase": caffe.TRAIN})
    proto = n.to_proto()
    assert b"drop" in draw_net(proto, ext="svg", phase=caffe.TRAIN)
    assert b"drop" not in draw_net(proto, ext="svg", phase=caffe.TEST)


def test_refusals() -> None:
    path = write("n.prototxt", TRAIN)
    with pytest.raises(BridgeError, match="rankdir 'XY'"):
        draw_net(path, "XY")
    with pytest.raises(BridgeError, match="no kind of picture"):
        draw_net(path, ext="gif")
    with pytest.raises(SchemaError, match="no message"):
        draw_net(3)


@needs_shared
def test_every_public_net_can_be_drawn() -> None:
    found = sorted((SHARED / "prototxt").rglob("*oogle*net*/**/train_val*.prototxt"))
    assert found
    for path in found:
        assert draw_net(str(path), "TB", "svg").endswith(b"</svg>\n")
