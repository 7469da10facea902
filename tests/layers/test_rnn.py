import numpy as np

from tests.helpers import check_layer
from tests.layers.test_lstm import CONT, Array


def rnn(
    x: Array, cont: Array, h: Array, w: Array, b: Array, u: Array, out: Array, bias: Array
) -> list[Array]:
    tops = []
    for now, flag in zip(x, cont[..., None], strict=True):
        h = np.tanh(now @ w.T + b + flag * h @ u.T)
        tops.append(np.tanh(h @ out.T + bias))
    return [np.stack(tops), h[None]]


def test_rnn() -> None:
    check_layer(
        'type: "RNN" recurrent_param { num_output: 2 }',
        [(4, 3, 5), CONT],
        [(4, 3, 2)],
        lambda x, cont, *blobs: rnn(x, cont, np.zeros((3, 2)), *blobs)[0],
        macs=4 * 3 * (2 * 5 + 2 * 2 + 2 * 2),
    )


def test_static_input() -> None:
    def reference(x: Array, cont: Array, s: Array, w: Array, b: Array, *rest: Array) -> Array:
        every = np.broadcast_to(s, (4, 3, 6))
        joined = np.concatenate([w, rest[0]], 1)
        start = np.zeros((3, 2))
        return rnn(np.concatenate([x, every], 2), cont, start, joined, b, *rest[1:])[0]

    check_layer(
        'type: "RNN" recurrent_param { num_output: 2 }',
        [(4, 3, 5), CONT, (3, 6)],
        [(4, 3, 2)],
        reference,
    )


def test_exposed_state() -> None:
    check_layer(
        'type: "RNN" recurrent_param { num_output: 2 expose_hidden: true }',
        [(4, 3, 5), CONT, (1, 3, 2)],
        [(4, 3, 2), (1, 3, 2)],
        lambda x, cont, h, *blobs: rnn(x, cont, h[0], *blobs),
        gradient=False,
    )
