from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.cli.main import main
from caffe_bridge.compress import LayerPlan, Plan, as_weights_of
from caffe_bridge.compress.calibration import Moments, array_feeds
from caffe_bridge.compress.data_aware import decompose_with_data
from caffe_bridge.compress.relu_aware import _closest, before_relu, fit_group
from caffe_bridge.compress.responses import regress
from caffe_bridge.graph import read_net
from caffe_bridge.net import Net
from caffe_bridge.schema import format_text, load_weights
from tests.compress.checks import GAUSS, filled, net_text, outputs
from tests.helpers import SHARED, needs_shared

SHAPE = (4, 3, 8, 8)
CONV = "convolution_param {{ num_output: {} kernel_size: 3 {} {} }}"


def conv(name: str, bottom: str, filters: int, more: str = "") -> str:
    param = CONV.format(filters, more, GAUSS)
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {param} }}'
    )


def relu(blob: str, more: str = "") -> str:
    return f'layer {{ name: "{blob}_r" type: "ReLU" bottom: "{blob}" top: "{blob}" {more} }}'


TEXT = net_text(SHAPE, conv("a", "x", 12), relu("a"), conv("b", "a", 8, "group: 2"), relu("b"))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *SHAPE[1:])).astype(np.float32)


def test_each_element_takes_the_cheaper_of_both_branches() -> None:
    random = np.random.default_rng(0)
    passed, u = np.maximum(random.standard_normal(500), 0), random.standard_normal(500)
    for weight in (0.1, 1.0):
        z = _closest(passed, u, weight)
        grid = np.linspace(-6, 6, 4001)[:, None]
        cost = (passed - np.maximum(grid, 0)) ** 2 + weight * (grid - u) ** 2
        mine = (passed - np.maximum(z, 0)) ** 2 + weight * (z - u) ** 2
        assert (mine <= cost.min(axis=0) + 1e-9).all()


def test_negative_answers_are_given_up_for_positive_ones() -> None:
    """Rank 1 of two responses: the linear fit follows the large one that the ReLU removes."""
    random = np.random.default_rng(0)
    y = np.stack([0.5 * np.abs(random.standard_normal(4000)), -5 * random.random(4000) - 0.1])
    linear = fit_group(y, y, np.zeros(2), 1, exact=True)
    both = Moments(2)
    both.add(y, y)
    vectors, reduced, shift = regress(both, 1, exact=True)
    made = vectors @ (reduced @ y) + shift[:, None]
    plain = float(np.sum((np.maximum(y, 0) - np.maximum(made, 0)) ** 2))
    assert linear[1] < 0.2 * plain


@pytest.mark.parametrize("asymmetric", [True, False])
def test_the_error_behind_the_relu_is_not_larger(asymmetric: bool) -> None:
    record, weights = filled(TEXT)
    plan = Plan([LayerPlan("a", "pca", 4), LayerPlan("b", "pca", 4)])
    feeds = array_feeds(Net(record, weights=weights), {"x": images(64)})
    want = outputs(TEXT, weights, images(64))
    errors = {}
    for aware in (False, True):
        made = decompose_with_data(
            record, weights, plan, feeds, asymmetric=asymmetric, relu=aware, positions=0
        )
        got = outputs(format_text(made.net), as_weights_of(made.blobs), images(64))
        errors[aware] = float(np.sum((got["a"] - want["a"]) ** 2))
        if aware:
            norm = float(np.sum(want["a"] ** 2))
            assert made.plan.layers[0].error == pytest.approx(
                (errors[True] / norm) ** 0.5, rel=1e-3
            )
    assert errors[True] < errors[False]


def test_which_layers_stand_before_a_relu() -> None:
    text = net_text(
        SHAPE, conv("a", "x", 4), relu("a"), conv("b", "a", 4),
        relu("b", "relu_param { negative_slope: 0.1 }"),
        conv("c", "b", 4),
    )  # fmt: skip
    net = Net(filled(text)[0])
    assert [before_relu(net, name) for name in ("a", "b", "c", "none")] == [
        True, False, False, False,
    ]  # fmt: skip


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(TEXT)
    Net("net.prototxt", seed=0).save("net.caffemodel")
    np.savez("x.npz", x=images(16))
    given = ["decompose", "net.prototxt", "net.caffemodel", "--ranks", "4,4", "-o", "low"]
    assert main([*given, "--calibrate", "x.npz", "--relu-aware", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ranks"] == {"a": 4, "b": 4}
    plan = json.loads(Path("low/plan.json").read_text())
    assert plan["settings"]["data_aware"] == "asymmetric, before ReLU"
    assert main([*given, "--relu-aware"]) == 2
    assert "--relu-aware has no effect without --calibrate" in capsys.readouterr().err


@needs_shared
def test_a_trained_layer() -> None:
    folder = SHARED / "models" / "cifar10_quick"
    net, weights = read_net(folder / "deploy.prototxt"), load_weights(folder / "weights.caffemodel")
    whole = Net(net, weights=weights)
    name = "conv2"
    assert before_relu(whole, name)
    ((blob, shape),) = whole.inputs.items()
    x = np.load(folder / "io.npz")[f"in/{blob}"]
    x = np.resize(x, (max(len(x), 8) // shape[0] * shape[0], *x.shape[1:])).astype(np.float32)
    x += np.random.default_rng(0).standard_normal(x.shape).astype(np.float32) * 10
    feeds = array_feeds(whole, {blob: x})
    plan = Plan([LayerPlan(name, "pca", 6)])
    errors = []
    for aware in (False, True):
        made = decompose_with_data(net, weights, plan, feeds, relu=aware, positions=0)
        low = Net(made.net, weights=as_weights_of(made.blobs))
        with torch.no_grad():
            gaps = []
            for feed in feeds:
                whole(feed)
                low(feed)
                gaps.append(float(((whole.values[name] - low.values[name]) ** 2).sum()))
        errors.append(sum(gaps))
    assert errors[1] <= errors[0]
