"""Numbers of the paper's AlexNet tables that need no stopwatch."""

from __future__ import annotations

import pytest

from caffe_bridge.compress.latency.alexnet import alexnet_spec
from caffe_bridge.compress.latency.paper import TABLES, _variants, alexnet_target
from caffe_bridge.graph import load_net
from caffe_bridge.net import Net, build
from tests.shared import REPO


@pytest.fixture(scope="module")
def net() -> Net:
    return Net(alexnet_spec(), seed=0)


def test_geometry_is_that_of_the_recipe(net: Net) -> None:
    recipe = build(load_net(REPO / "solvers" / "alexnet" / "deploy.prototxt", "TEST"), fill=False)
    rows = []
    for built in (net.built, recipe):
        shapes = {}
        for node, layer in zip(built.graph.nodes, built.layers, strict=True):
            if layer.spec.type in ("Convolution", "InnerProduct", "LRN", "Pooling"):
                top = built.shapes[node.outputs[0].index][1:]
                shapes[layer.name] = (top, [tuple(blob.shape) for blob in layer.blobs])
        rows.append(shapes)
    assert rows[0] == rows[1]
    assert len(rows[0]) == 13


@pytest.mark.parametrize("row", TABLES["table4"], ids=lambda row: row.name)
def test_theoretical_speed_ups_are_the_paper_s(row: object, net: Net) -> None:
    (variant,) = _variants([row], net, 0)  # type: ignore[list-item]
    for name, form in variant.forms.items():
        target = alexnet_target(net, name)
        got = form.method.speedup(target, variant.row.ranks[name][1])
        assert got == pytest.approx(variant.row.theoretical[name], abs=0.006)


def test_aligned_ranks(net: Net) -> None:
    made = _variants(TABLES["table4"], net, 16)
    ranks = {v.name: [form.rank for form in v.forms.values()] for v in made}
    assert ranks == {
        "no force": [184, 200, 146],
        "no force, aligned": [192, 224, 160],
        "L2 force": [124, 106, 128],
        "L2 force, aligned": [128, 128, 128],
    }
    assert [v.aligned for v in made] == [False, True, False, True]
    made = _variants(TABLES["table6"], net, 16)
    assert [[f.rank for f in v.forms.values()] for v in made] == [
        [8, 40, 150, 160, 120],
        [16, 64, 160, 160, 128],
        [16, 64, 160, 160, 128],
    ]
    names = [f.method.name for f in made[2].forms.values()]
    assert names == ["spatial_h", "spatial_h", "pca", "pca", "pca"]
