"""Wiring of blobs to values."""

from __future__ import annotations

import pytest

from caffe_bridge.errors import BlobError, GraphError
from caffe_bridge.graph import Graph, parse_net, wire


def graph(*layers: str) -> Graph:
    """Layers written as ``name: bottoms -> tops``."""
    text = ""
    for layer in layers:
        name, edges = layer.split(":")
        bottoms, tops = (side.split() for side in edges.split("->"))
        extra = [t for t in tops if "=" in t]
        text += f"layer {{ name: '{name}' type: 'X' "
        text += " ".join(f"bottom: '{b}'" for b in bottoms) + " "
        text += " ".join(f"top: '{t}'" for t in tops if t not in extra)
        text += " ".join(f" {e.replace('=', ': ')}" for e in extra) + " }\n"
    return wire(parse_net(text, source="n.prototxt"))


def test_values_and_consumers() -> None:
    made = graph("data: -> x y", "a: x -> p", "b: x p -> q", "c: y -> r")
    assert [v.name for v in made.values] == ["x", "y", "p", "q", "r"]
    assert [v.consumers for v in made.values] == [[1, 2], [3], [2], [], []]
    assert [(v.producer, v.top_index) for v in made.values[:3]] == [(0, 0), (0, 1), (1, 0)]
    assert [n.layer.name for n in made.nodes] == ["data", "a", "b", "c"]
    assert [v.blob for v in made.nodes[2].inputs] == ["x", "p"]


def test_outputs_are_sorted_and_unread() -> None:
    made = graph("data: -> z a m", "r: m -> b")
    assert [v.blob for v in made.outputs] == ["a", "b", "z"]


def test_in_place_layers_make_new_values() -> None:
    made = graph("data: -> x", "conv: x -> y", "relu: y -> y", "drop: y -> y", "ip: y -> z")
    assert [v.name for v in made.values] == ["x", "y@conv", "y@relu", "y", "z"]
    assert made.blobs()["y"].producer == 3
    assert list(made.blobs()) == ["x", "y", "z"]
    assert [v.producer for v in made.nodes[4].inputs] == [3]
    assert [v.blob for v in made.outputs] == ["z"]


def test_a_reader_before_the_in_place_layer_keeps_the_old_value() -> None:
    made = graph("data: -> x", "early: x -> p", "relu: x -> x", "late: x -> q")
    assert made.nodes[1].inputs[0] is made.values[0]
    assert made.nodes[3].inputs[0] is made.values[2]


def test_an_in_place_result_that_nobody_reads_is_an_output() -> None:
    made = graph("data: -> x", "relu: x -> x")
    assert [v.index for v in made.outputs] == [1]


def test_value_names_are_unique_whatever_the_names() -> None:
    made = graph("d: -> x", "r: x -> x", "r: x -> x", "r: x -> x", "x: x -> x@d x@r", "d: x -> x")
    names = [v.name for v in made.values]
    assert len(set(names)) == len(names)
    for blob, value in made.blobs().items():
        assert value.name == blob


def test_names_that_are_not_utf8_can_be_printed() -> None:
    raw = b"\xb2\xe3".decode("utf-8", "surrogateescape")
    (value,) = graph(f"d: -> {raw}").values
    assert (value.blob, value.name) == (raw, r"\xb2\xe3")
    with pytest.raises(BlobError) as caught:
        graph(f"{raw}: -> {raw}", f"d: -> {raw}")
    assert str(caught.value).startswith(r"d (X) at n.prototxt:2: top '\xb2\xe3' is already made")
    str(caught.value).encode()


def test_several_in_place_positions() -> None:
    made = graph("data: -> a b", "both: a b -> a b", "end: b a -> c")
    assert [v.index for v in made.nodes[2].inputs] == [3, 2]


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (
            ("data: -> x y", "r: z -> q"),
            r"r \(X\) at n.prototxt:2: bottom 0 'z' is made by no earlier.*; blobs so far: x, y",
        ),
        (("r: z -> q",), "blobs so far: none"),
        (("r: x -> x",), "bottom 0 'x' is made by no earlier layer"),
        (("r: q -> q2", "d: -> q"), "bottom 0 'q' is made by no earlier layer"),
        (
            ("d: -> x", "a: x -> y", "b: x -> y"),
            r"b \(X\) .*: top 'y' is already made by a \(X\) at n.prototxt:2",
        ),
        (("d: -> x y", "a: x y -> z x"), "top 'x' is already made by d"),
        (("d: -> x x",), r"d \(X\) at n.prototxt:1: names the top 'x' twice"),
        (("d: -> x", "a: x x -> x x"), "names the top 'x' twice"),
    ],
)
def test_broken_wiring(layers, reason) -> None:
    with pytest.raises(BlobError, match=reason):
        graph(*layers)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("propagate_down=true", "gives propagate_down 1 times for 2 bottoms"),
        ("loss_weight=1", "gives loss_weight 1 times for 2 tops; give it once for each top"),
    ],
)
def test_one_for_each(extra: str, reason: str) -> None:
    with pytest.raises(GraphError, match=reason):
        graph("d: -> x y", f"a: x y -> p q {extra}")
    assert graph("d: -> x y", f"a: x y -> p q {extra} {extra}")
