import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from tests.layers.losses import check_loss, gradients, normal

A, B = normal(6, 3), normal(6, 3, seed=1)
S = np.array([0.0, 1.0, 0.5, 2.0, 0.0, 1.0], np.float32)
ALIKE = np.array([False, True, False, True, False, True])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("margin", [1.0, 2.5])
def test_contrastive(legacy: bool, margin: float) -> None:
    def reference(a: np.ndarray, b: np.ndarray, s: np.ndarray) -> np.ndarray:
        square = ((a - b.reshape(6, 3)) ** 2).sum(1)
        far = margin - square if legacy else margin - np.sqrt(square)
        unlike = np.maximum(far, 0) ** (1 if legacy else 2)
        return np.asarray(np.where(ALIKE, square, unlike).sum() / 12)

    text = f"margin: {margin} legacy_version: {str(legacy).lower()}"
    check_loss(
        f'type: "ContrastiveLoss" contrastive_loss_param {{ {text} }}',
        [A, B.reshape(6, 3, 1, 1), S],
        reference,
        gradient=legacy,
    )


def test_gradient_divides_by_a_guarded_distance() -> None:
    bottoms = [np.array([[3e-4, 0.0], [0.0, 0.0], [5.0, 0.0]]), np.zeros((3, 2)), np.zeros(3)]
    net = check_loss(
        'type: "ContrastiveLoss"',
        bottoms,
        lambda *_: np.asarray(((1 - 3e-4) ** 2 + 1) / 6),
        gradient=False,
    )
    first, second = gradients(net, bottoms, (0, 1))
    want = np.zeros((3, 2))
    want[0, 0] = -(1 - 3e-4) / 3 * 3e-4 / 4e-4
    np.testing.assert_allclose(first, want, rtol=1e-5)
    np.testing.assert_array_equal(second, -first)


def test_maps_are_refused() -> None:
    with pytest.raises(ShapeError, match="are no pairs of vectors"):
        check_loss(
            'type: "ContrastiveLoss"', [normal(2, 3, 4), normal(2, 3, 4), np.zeros(2)], lambda *_: 0
        )


def test_one_similarity_for_each_pair() -> None:
    with pytest.raises(ShapeError, match=r"bottom 2 of shape \(3,\) must hold one value"):
        check_loss(
            'type: "ContrastiveLoss"', [normal(2, 3), normal(2, 3), np.zeros(3)], lambda *_: 0
        )
