import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from tests.layers.losses import check_loss, gradients, normal

X = 3 * normal(4, 3, 2)
T = np.random.default_rng(3).integers(-1, 2, (4, 3, 2)).astype(np.float32)


def costs(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x)) - x * t


@pytest.mark.parametrize(
    ("text", "ignore", "size"),
    [
        ("", None, lambda count: 4),
        ("ignore_label: -1", -1, lambda count: 4),
        ("ignore_label: -1 normalization: VALID", -1, lambda count: count),
        ("ignore_label: -1 normalize: true", -1, lambda count: count),
        ("normalization: FULL", None, lambda count: 24),
        ("normalization: NONE ignore_label: 0", 0, lambda count: 1),
    ],
)
def test_cross_entropy(text: str, ignore: int | None, size: object) -> None:
    def reference(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        counts = t != ignore if ignore is not None else np.ones_like(t, bool)
        return np.asarray(costs(x, t)[counts].sum() / size(counts.sum()))

    check_loss(f'type: "SigmoidCrossEntropyLoss" loss_param {{ {text} }}', [X, T], reference)


def test_targets_between_and_of_another_form() -> None:
    check_loss(
        'type: "SigmoidCrossEntropyLoss"',
        [normal(2, 6), np.random.default_rng(1).random((2, 2, 3))],
        lambda x, t: np.asarray(costs(x, t.reshape(2, 6)).sum() / 2),
    )


def test_gradient_is_sigmoid_minus_target_even_at_zero() -> None:
    bottoms = [np.array([[0.0, 100.0, -100.0]]), np.array([[1.0, 0.0, 1.0]])]
    net = check_loss(
        'type: "SigmoidCrossEntropyLoss"',
        bottoms,
        lambda x, t: np.asarray(np.log(2) + 200.0),
        gradient=False,
    )
    np.testing.assert_allclose(gradients(net, bottoms)[0], [[-0.5, 1.0, -1.0]], rtol=1e-6)


def test_other_counts_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"l \(SigmoidCrossEntropyLoss\).*\(2, 3\) and \(2, 2\)"):
        check_loss('type: "SigmoidCrossEntropyLoss"', [normal(2, 3), normal(2, 2)], lambda *_: None)
