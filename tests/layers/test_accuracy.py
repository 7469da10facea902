import numpy as np
import pytest

from caffe_bridge.errors import DataError, ShapeError
from tests.layers.losses import check_loss, labels, normal


def accuracy(top_k: int, ignore: int | None, per_class: bool) -> object:
    def reference(x: np.ndarray, label: np.ndarray) -> object:
        x = x.reshape(x.shape[0], x.shape[1], -1)
        y = label.reshape(x.shape[0], -1).astype(int)
        right, count = np.zeros(x.shape[1]), np.zeros(x.shape[1])
        for i in range(x.shape[0]):
            for j in range(x.shape[2]):
                if y[i, j] != ignore:
                    others = np.delete(x[i, :, j], y[i, j])
                    right[y[i, j]] += (others >= x[i, y[i, j], j]).sum() < top_k
                    count[y[i, j]] += 1
        each = np.divide(right, count, out=np.zeros_like(right), where=count > 0)
        overall = np.asarray(right.sum() / max(1, count.sum()))
        return [overall, each] if per_class else overall

    return reference


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("ignore", [None, 2])
@pytest.mark.parametrize("top_k", [1, 3])
def test_accuracy(top_k: int, ignore: int | None, per_class: bool) -> None:
    extra = "" if ignore is None else f"ignore_label: {ignore}"
    check_loss(
        f'type: "Accuracy" accuracy_param {{ top_k: {top_k} {extra} }}',
        [normal(6, 5, 2), labels(5, 6, 2)],
        accuracy(top_k, ignore, per_class),
        tops=[(), (5,)] if per_class else [()],
        gradient=False,
    )


def test_last_axis() -> None:
    check_loss(
        'type: "Accuracy" accuracy_param { axis: -1 }',
        [normal(3, 4, 5), labels(5, 3, 4)],
        lambda x, y: np.asarray((x.argmax(2) == y).mean()),
        gradient=False,
    )


def test_ties_count_against() -> None:
    check_loss(
        'type: "Accuracy"',
        [np.ones((4, 3)), labels(3, 4)],
        lambda x, y: np.asarray(0.0),
        gradient=False,
    )


def test_nothing_counts() -> None:
    check_loss(
        'type: "Accuracy" accuracy_param { ignore_label: -1 }',
        [normal(2, 3), np.full(2, -1.0)],
        lambda x, y: [np.asarray(0.0), np.zeros(3)],
        tops=[(), (3,)],
        gradient=False,
    )


def test_infinite_scores() -> None:
    check_loss(
        'type: "Accuracy"',
        [np.array([[-np.inf, 1.0, np.inf], [-np.inf, 0.0, 1.0]]), np.array([2.0, 0.0])],
        lambda x, y: np.asarray(0.5),
        gradient=False,
    )


def test_top_k_beyond_the_classes() -> None:
    with pytest.raises(ShapeError, match="top_k 4 is more than the 3 classes"):
        check_loss(
            'type: "Accuracy" accuracy_param { top_k: 4 }',
            [normal(2, 3), labels(3, 2)],
            lambda *_: None,
        )


def test_label_outside_the_classes() -> None:
    with pytest.raises(DataError, match=r"l \(Accuracy\).*label -1 is outside 0\.\.2"):
        check_loss('type: "Accuracy"', [normal(1, 3), np.array([-1.0])], lambda *_: None)
