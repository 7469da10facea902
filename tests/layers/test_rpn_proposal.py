import numpy as np
import pytest
import torch

from caffe_bridge.errors import GraphError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.layers.python import allow_python_layers
from caffe_bridge.layers.rpn_proposal import RPNProposal, read_settings
from caffe_bridge.net import Net
from caffe_bridge.net.inspect import inspect
from tests.helpers import net_text
from tests.layers.losses import check_onnx, normal

NATIVE = "pre_nms_topn: {} post_nms_topn: {} feat_stride: 8 scale: 1 scale: 2"


def known(settings: str) -> str:
    return (
        'type: "Python" python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" '
        f'param_str: "{settings}" }}'
    )


def bottoms(anchors: int = 6) -> list[np.ndarray]:
    info = np.array([[90, 100, 0.5]], np.float32)
    return [
        normal(1, 2 * anchors, 11, 12), normal(1, 4 * anchors, 11, 12, seed=1) / 3, info
    ]  # fmt: skip


def net(layer: str, phase: str = "TEST", tops: int = 2) -> Net:
    return Net(parse_net(net_text(layer, [b.shape for b in bottoms()], tops), phase))


def run(model: Net) -> list[np.ndarray]:
    out = model({f"in{i}": torch.from_numpy(b) for i, b in enumerate(bottoms())})
    return [value.numpy() for value in out.values()]


@pytest.mark.parametrize(("phase", "counts"), [("TEST", (6000, 300)), ("TRAIN", (12000, 2000))])
def test_is_proposal_with_the_settings_of_its_phase(phase: str, counts: tuple[int, int]) -> None:
    model = net(known("'feat_stride': 8, 'scales': [1, 2]"), phase)
    assert isinstance(model.layer("l"), RPNProposal)
    native = net(f'type: "Proposal" proposal_param {{ {NATIVE.format(*counts)} }}', phase)
    for got, want in zip(run(model), run(native), strict=True):
        np.testing.assert_array_equal(got, want)
    assert 5 < len(run(model)[0]) <= counts[1]


def test_onnx() -> None:
    check_onnx(net(known("{'feat_stride': 8, 'scales': [1, 2]}"), tops=1), bottoms())


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("'feat_stride': 16", {"feat_stride": 16}),
        ("{'feat_stride': 4, 'scales': [2, 4]}", {"feat_stride": 4, "scales": [2, 4]}),
        ("'feat_stride': 16 \n'scales': !!python/tuple [4, 8]",
         {"feat_stride": 16, "scales": [4, 8]}),
        ("feat_stride: 2\nscales: (0.5, 1)", {"feat_stride": 2, "scales": (0.5, 1)}),
    ],
)  # fmt: skip
def test_settings(text: str, want: dict[str, object]) -> None:
    assert read_settings(text) == want


def test_users_class_runs_when_allowed() -> None:
    before = allow_python_layers()
    try:
        with pytest.raises(GraphError, match=r"cannot make rpn\.proposal_layer\.ProposalLayer"):
            net(known("'feat_stride': 8"))
    finally:
        allow_python_layers(before)


def test_inspection_knows_it() -> None:
    text = net_text(known("'feat_stride': 8, 'scales': [1, 2]"), [b.shape for b in bottoms()], 1)
    assert inspect(parse_net(text, "TEST")).supported


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("", "cannot be read; give 'feat_stride'"),
        ("'feat_stride': x", "cannot be read"),
        ("'feat_stride': 8, 'ratios': [1]", "names ratios, but the built-in layer has only"),
        ("'feat_stride': 0", "feat_stride 0 and scales"),
        ("'feat_stride': 8, 'scales': [0]", r"scales \[0.0\] must be positive"),
    ],
)
def test_errors(settings: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        net(known(settings))
