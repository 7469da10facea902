import numpy as np
import pytest
import torch

from caffe_bridge.errors import DataError, ShapeError
from tests.layers.losses import check_loss, gradients, labels, normal, softmax

X = normal(4, 5, 3, 2)
LABEL = labels(5, 4, 1, 3, 2)
TINY = float(np.finfo(np.float32).tiny)


def total(x: np.ndarray, label: np.ndarray, ignore: int | None = None) -> tuple[float, int]:
    """Summed loss and number of labels that count, classes on axis 1."""
    p = softmax(x).reshape(x.shape[0], x.shape[1], -1)
    y = label.reshape(x.shape[0], -1).astype(int)
    cost, count = 0.0, 0
    for i in range(p.shape[0]):
        for j in range(p.shape[2]):
            if y[i, j] != ignore:
                cost -= np.log(max(p[i, y[i, j], j], TINY))
                count += 1
    return cost, count


@pytest.mark.parametrize("ignore", [None, 1])
@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("normalization: FULL", lambda count: 24),
        ("normalization: VALID", lambda count: count),
        ("normalization: BATCH_SIZE", lambda count: 4),
        ("normalization: NONE", lambda count: 1),
        ("normalization: PRE_FIXED pre_fixed_normalizer: 8", lambda count: 8),
        ("normalize: true", lambda count: count),
        ("normalize: false", lambda count: 4),
        ("normalize: false normalization: FULL", lambda count: 24),
        ("", lambda count: count),
    ],
)
def test_normalizations(ignore: int | None, text: str, size: object) -> None:
    def reference(x: np.ndarray, label: np.ndarray) -> np.ndarray:
        cost, count = total(x, label, ignore)
        return np.asarray(cost / size(count))

    extra = "" if ignore is None else f"ignore_label: {ignore}"
    check_loss(
        f'type: "SoftmaxWithLoss" loss_param {{ {text} {extra} }}',
        [X, LABEL],
        reference,
        gradient=text in ("", "normalization: BATCH_SIZE"),
    )


@pytest.mark.parametrize("axis", [-1, 2])
def test_other_axis_and_label_shape(axis: int) -> None:
    x = normal(3, 2, 4)
    check_loss(
        f'type: "SoftmaxWithLoss" softmax_param {{ axis: {axis} }}',
        [x, labels(4, 3, 2)],
        lambda x, y: np.asarray(
            -np.log(np.take_along_axis(softmax(x, 2), y.astype(int)[..., None], 2)).mean()
        ),
    )


def test_axis_zero() -> None:
    check_loss(
        'type: "SoftmaxWithLoss" softmax_param { axis: 0 }',
        [normal(4, 6), labels(4, 6)],
        lambda x, y: np.asarray(-np.log(softmax(x, 0)[y.astype(int), np.arange(6)]).mean()),
        onnx=False,
    )


def test_flat_labels_of_a_map() -> None:
    check_loss(
        'type: "SoftmaxWithLoss"',
        [X, LABEL.reshape(-1)],
        lambda x, y: np.asarray(total(x, y)[0] / 24),
        onnx=False,
    )


def test_probabilities_are_the_second_top() -> None:
    check_loss(
        'type: "SoftmaxWithLoss"',
        [X, LABEL],
        lambda x, y: [np.asarray(total(x, y)[0] / 24), softmax(x)],
        tops=[(), X.shape],
    )


def test_everything_ignored_costs_nothing() -> None:
    bottoms = [normal(2, 3), np.full(2, 255, np.float32)]
    net = check_loss(
        'type: "SoftmaxWithLoss" loss_param { ignore_label: 255 }',
        bottoms,
        lambda x, y: np.asarray(0.0),
    )
    assert not gradients(net, bottoms)[0].any()


def test_floor_cuts_the_loss_but_not_the_gradient() -> None:
    bottoms = [np.array([[0.0, 200.0]], np.float32), np.zeros(1, np.float32)]
    net = check_loss(
        'type: "SoftmaxWithLoss"', bottoms, lambda x, y: np.asarray(-np.log(TINY)), gradient=False
    )
    np.testing.assert_allclose(gradients(net, bottoms)[0], [[-1.0, 1.0]])


def test_labels_are_truncated() -> None:
    net = check_loss(
        'type: "SoftmaxWithLoss"',
        [normal(2, 3), np.array([1.9, 2.0])],
        lambda x, y: np.asarray(total(x, np.array([1, 2]))[0] / 2),
    )
    label = torch.tensor([1.0, -0.5])
    assert torch.isfinite(net.layer("l")(torch.zeros(2, 3), label)[0])


def test_label_outside_the_classes() -> None:
    with pytest.raises(DataError, match=r"l \(SoftmaxWithLoss\).*label 5 is outside 0\.\.4"):
        check_loss('type: "SoftmaxWithLoss"', [normal(1, 5), np.array([5.0])], lambda *_: None)


def test_wrong_number_of_labels() -> None:
    with pytest.raises(ShapeError, match=r"labels of shape \(4, 1\) hold 4 values.*needs 24"):
        check_loss('type: "SoftmaxWithLoss"', [X, labels(5, 4, 1)], lambda *_: None)


def test_fork_fields_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"loss_param\.class_weighting is a fork's"):
        check_loss(
            'type: "SoftmaxWithLoss" loss_param { class_weighting: 1 }',
            [X, LABEL],
            lambda *_: None,
        )
