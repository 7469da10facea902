import numpy as np
import pytest

from tests.helpers import check_layer

Array = np.ndarray
CONT = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 1], [1, 1, 1]], np.float32)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def lstm(x: Array, cont: Array, h: Array, c: Array, w: Array, b: Array, u: Array) -> list[Array]:
    hidden = []
    for now, flag in zip(x.reshape(*x.shape[:2], -1), cont[..., None], strict=True):
        i, f, o, g = np.split(now @ w.T + b + flag * h @ u.T, 4, 1)
        c = flag * sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        hidden.append(h)
    return [np.stack(hidden), h[None], c[None]]


@pytest.mark.parametrize("tail", [(5,), (2, 3)])
def test_lstm(tail: tuple[int, ...]) -> None:
    zero = np.zeros((3, 2))
    check_layer(
        'type: "LSTM" recurrent_param { num_output: 2 }',
        [(4, 3, *tail), CONT],
        [(4, 3, 2)],
        lambda x, cont, w, b, u: lstm(x, cont, zero, zero, w, b, u)[0],
        macs=4 * 3 * (8 * int(np.prod(tail)) + 8 * 2),
    )


def test_static_input() -> None:
    def reference(x: Array, cont: Array, s: Array, w: Array, b: Array, v: Array, u: Array) -> Array:
        zero = np.zeros((3, 2))
        every = np.broadcast_to(s.reshape(3, -1), (4, 3, 6))
        joined = np.concatenate([w, v], 1)
        return lstm(np.concatenate([x, every], 2), cont, zero, zero, joined, b, u)[0]

    check_layer(
        'type: "LSTM" recurrent_param { num_output: 2 }',
        [(4, 3, 5), CONT, (3, 2, 3)],
        [(4, 3, 2)],
        reference,
        macs=4 * 3 * (8 * 5 + 8 * 2) + 3 * 8 * 6,
    )


def test_exposed_states() -> None:
    check_layer(
        'type: "LSTM" recurrent_param { num_output: 2 expose_hidden: true }',
        [(4, 3, 5), np.ones((4, 3)), (1, 3, 2), (1, 3, 2)],
        [(4, 3, 2), (1, 3, 2), (1, 3, 2)],
        lambda x, cont, h, c, w, b, u: lstm(x, cont, h[0], c[0], w, b, u),
        gradient=False,
    )


def test_one_step() -> None:
    zero = np.zeros((2, 3))
    check_layer(
        'type: "LSTM" recurrent_param { num_output: 3 }',
        [(1, 2, 4), np.zeros((1, 2))],
        [(1, 2, 3)],
        lambda x, cont, w, b, u: lstm(x, cont, zero, zero, w, b, u)[0],
    )
