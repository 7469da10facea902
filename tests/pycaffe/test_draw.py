from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import BackendError, BridgeError, SchemaError
from caffe_bridge.graph import parse_net
from caffe_bridge.graph.draw import describe, net_layout
from caffe_bridge.pycaffe.draw import draw_net, draw_net_to_file, get_pydot_graph
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


PHASES = """name: "phases"
layer { name: "train" type: "DummyData" top: "x" include { phase: TRAIN }
  dummy_data_param { shape { dim: 1 dim: 2 } } }
layer { name: "test" type: "DummyData" top: "x" include { phase: TEST }
  dummy_data_param { shape { dim: 1 dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" param { lr_mult: 0.5 }
  inner_product_param { num_output: 2 } }
layer { name: "frozen" type: "InnerProduct" bottom: "ip" top: "y" param { lr_mult: 0 }
  param { lr_mult: 0 } inner_product_param { num_output: 2 } }
layer { name: "seen" type: "Sigmoid" bottom: "y" top: "z" include { phase: TEST } }
"""


def test_all_phases_in_one_drawing() -> None:
    path = write("n.prototxt", PHASES)
    everything = draw_net(path, ext="svg").decode()
    assert all(f">{n}<" in everything for n in ("train", "test", "ip", "frozen", "seen"))
    assert everything.count("marker-end") == 4
    for phase, shown, hidden in ((caffe.TRAIN, "train", "seen"), (caffe.TEST, "seen", "train")):
        text = draw_net(path, ext="svg", phase=phase).decode()
        assert f">{shown}<" in text and f">{hidden}<" not in text
    assert draw_net(path, ext="dot").decode().count('-> "blob x";') == 2
    with pytest.raises(BridgeError, match="no layers to draw"):
        draw_net(write("s.prototxt", 'net: "n.prototxt"'), ext="svg")


@pytest.mark.parametrize("kind", ["svg", "dot"])
def test_learning_rates_are_shown_where_not_zero(kind: str) -> None:
    path = write("n.prototxt", PHASES)
    assert "lr_mult" not in draw_net(path, ext=kind).decode()
    text = draw_net(path, ext=kind, display_lrm=True).decode()
    assert text.count("lr_mult") == text.count("lr_mult 0.5, 1") == 1


@pytest.mark.parametrize(("forth", "back", "axis"), [("LR", "RL", "x"), ("TB", "BT", "y")])
def test_directions(forth: str, back: str, axis: str) -> None:
    path = write("n.prototxt", DEPLOY)
    place = re.compile(r'<text x="(?P<x>[0-9.]+)" y="(?P<y>[0-9.]+)"[^>]*>(data|ip|prob)<')
    for direction, order in ((forth, [0, 1, 2]), (back, [2, 1, 0])):
        text = draw_net(path, direction, "svg").decode()
        found = [float(match[axis]) for match in place.finditer(text)]
        assert sorted(range(3), key=found.__getitem__) == order
        for start, end in re.findall(r'<path d="M([0-9.,]+) C[^"]* ([0-9.,]+)" fill', text):
            ends = [float(point.split(",")[axis == "y"]) for point in (start, end)]
            assert (ends[0] < ends[1]) == (direction == forth)


def test_pydot_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("n.prototxt", DEPLOY)
    monkeypatch.setitem(sys.modules, "pydot", None)
    with pytest.raises(BackendError, match="pip install pydot"):
        get_pydot_graph(path, "LR")
    stand_in = SimpleNamespace(graph_from_dot_data=lambda text: (text,))
    monkeypatch.setitem(sys.modules, "pydot", stand_in)
    assert get_pydot_graph(path, "BT") == draw_net(path, "BT", "dot").decode()


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
