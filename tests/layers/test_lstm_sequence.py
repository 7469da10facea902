import numpy as np
import pytest
import torch

from caffe_bridge.errors import ExportError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import check_layer, net_text
from tests.layers.losses import check_onnx, normal

Array = np.ndarray


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def lstm(x: Array, cont: Array, w: Array, u: Array, b: Array) -> Array:
    """Rows by time and stream; cont is (T, N)."""
    streams, units = cont.shape[1], u.shape[1]
    rows = []
    for n in range(streams):
        h = c = np.zeros(units)
        for t, flag in enumerate(cont[:, n]):
            i, f, o, g = np.split(w @ x[t * streams + n].reshape(-1) + b + flag * (u @ h), 4)
            c = flag * sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            rows.append((t * streams + n, h))
    return np.stack([h for _, h in sorted(rows, key=lambda row: row[0])])


def text(extra: str = "") -> str:
    return f'type: "Lstm" lstm_param {{ num_output: 3 {extra} }}'


@pytest.mark.parametrize("tail", [(4,), (2, 2)])
def test_one_stream_without_clip(tail: tuple[int, ...]) -> None:
    cont = np.array([[0], [1], [1], [1], [1]])
    check_layer(
        text(),
        [(5, *tail)],
        [(5, 3)],
        lambda x, w, u, b: lstm(x, cont, w, u, b),
        macs=5 * 12 * (4 + 3),
    )


def test_streams_without_clip() -> None:
    cont = np.array([[0, 0], [1, 1], [1, 1]])
    net = check_layer(
        text("batch_size: 2"),
        [(6, 4)],
        [(6, 3)],
        lambda x, w, u, b: lstm(x, cont, w, u, b),
        onnx=False,
    )
    check_onnx(net, [normal(6, 4)])


def test_clip_restarts_a_stream() -> None:
    clip = np.array([0, 0, 1, 0, 1, 2], np.float32)
    check_layer(
        text("batch_size: 2"),
        [(6, 4), clip.reshape(6, 1)],
        [(6, 3)],
        lambda x, clip, w, u, b: lstm(x, (clip.reshape(3, 2) != 0) * 1.0, w, u, b),
        gradient=False,
        onnx=False,
    )


def make(extra: str, bottoms: list[Array]) -> Net:
    net = Net(parse_net(net_text(text(extra), [b.shape for b in bottoms], 1), "TEST"))
    for index, blob in enumerate(net.layer("l").blobs):
        blob.data.copy_(torch.from_numpy(normal(*blob.shape, seed=index + 5)))
    return net


def run(net: Net, bottoms: list[Array]) -> torch.Tensor:
    return net({f"in{i}": torch.from_numpy(b) for i, b in enumerate(bottoms)})["out0"]


def test_state_goes_on_with_clip_only() -> None:
    x, ones = normal(6, 4), np.ones(6, np.float32)
    ones[0] = 0
    whole = run(make("", [x, ones]), [x, ones])
    net = make("", [x[:3], ones[:3]])
    parts = [run(net, [x[:3], ones[:3]]), run(net, [x[3:], ones[3:]])]
    torch.testing.assert_close(torch.cat(parts), whole)
    net.layer("l").reset_state()
    again = run(net, [x[3:], np.array([0, 1, 1], np.float32)])
    assert not torch.allclose(again, parts[1])
    alone = make("", [x])
    torch.testing.assert_close(run(alone, [x]), run(alone, [x]), rtol=0, atol=0)


def test_clipped_gradient() -> None:
    x = normal(1, 4)
    net = make("clipping_threshold: 0.01", [x])
    run(net, [x]).sum().mul(100).backward()
    grad = net.layer("l").blobs[2].grad
    assert grad.abs().max() <= 0.01 + 1e-7
    free = make("", [x])
    run(free, [x]).sum().mul(100).backward()
    torch.testing.assert_close(free.layer("l").blobs[2].grad.clamp(-0.01, 0.01), grad)


def test_hidden_weight_learns_across_a_restart() -> None:
    x, clip = normal(2, 4), np.zeros(2, np.float32)
    net = make("", [x, clip])
    out = run(net, [x, clip])
    out[1].sum().backward()
    layer = net.layer("l")
    # The second step's gates' gradient is the bias's, since the first step gets none.
    want = torch.outer(layer.blobs[2].grad, out[0].detach())
    torch.testing.assert_close(layer.blobs[1].grad, want)


@pytest.mark.parametrize(
    ("extra", "shapes", "message"),
    [
        ("batch_size: 0", [(4, 2)], "num_output 3 and batch_size 0"),
        ("batch_size: 3", [(4, 2)], "must have a multiple of 3 rows"),
        ("", [(4, 2), (3,)], r"clip \(bottom 1\) has shape \(3,\), expected 4 values"),
    ],
)
def test_errors(extra: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Net(parse_net(net_text(text(extra), shapes, 1), "TEST"))


def test_onnx_with_clip_is_refused() -> None:
    x, clip = normal(4, 2), np.ones(4, np.float32)
    with pytest.raises(ExportError, match="has clip, which restarts"):
        export(make("", [x, clip]))
