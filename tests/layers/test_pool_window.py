"""The window rules against Caffe's loops, over a grid of geometries."""

import itertools

import numpy as np
import pytest
import torch

from caffe_bridge.layers.pool_window import LOWEST, PoolWindow, average_pool, max_pool, sum_windows


def loops(x: np.ndarray, w: PoolWindow) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maximum, mask and average of (H, W), window by window as pooling_layer.cpp walks them."""
    height, width = x.shape
    out = w.sizes(x.shape)
    best, mask, mean = np.full(out, LOWEST), np.full(out, -1.0), np.zeros(out)
    for row, col in itertools.product(range(out[0]), range(out[1])):
        top, left = row * w.stride[0] - w.pad[0], col * w.stride[1] - w.pad[1]
        bottom, right = (
            min(top + w.kernel[0], height + w.pad[0]), min(left + w.kernel[1], width + w.pad[1])
        )  # fmt: skip
        size = (bottom - top) * (right - left)
        total = 0.0
        for r in range(max(top, 0), min(bottom, height)):
            for c in range(max(left, 0), min(right, width)):
                total += x[r, c]
                if x[r, c] > best[row, col]:
                    best[row, col], mask[row, col] = x[r, c], r * width + c
        mean[row, col] = total / size if size else np.nan
    return best, mask, mean


GRID = [
    (size, kernel, stride, pad, floor)
    for size, kernel, stride, floor in itertools.product(
        (1, 2, 5, 8), (1, 2, 3, 5), (1, 2, 3, 4), (False, True)
    )
    for pad in range(kernel)
]


def windows() -> list[tuple[tuple[int, int], PoolWindow]]:
    """Every geometry on one axis with the next one on the other."""
    made = []
    for a, b in zip(GRID, GRID[7:] + GRID[:7], strict=True):
        window = PoolWindow((a[1], b[1]), (a[2], b[2]), (a[3], b[3]), a[4])
        if min(window.sizes((a[0], b[0]))) >= 1:
            made.append(((a[0], b[0]), window))
    return made


def test_grid_of_geometries() -> None:
    cases = windows()
    assert len(cases) > 150
    rng = np.random.default_rng(0)
    for size, window in cases:
        x = np.round(rng.standard_normal(size) * 2) / 2
        best, mask, mean = loops(x, window)
        tensor = torch.from_numpy(x)[None, None]
        y, got = max_pool(tensor, window, with_mask=True)
        np.testing.assert_array_equal(y[0, 0].numpy(), best, err_msg=str((size, window)))
        np.testing.assert_array_equal(got[0, 0].numpy(), mask, err_msg=str((size, window)))
        average = average_pool(tensor, window)[0, 0].numpy()
        np.testing.assert_allclose(average, mean, rtol=1e-6, err_msg=str((size, window)))


def test_sizes_need_the_clip_only_with_padding() -> None:
    assert PoolWindow((1, 1), (3, 3)).sizes((5, 5)) == (3, 3)
    assert PoolWindow((2, 2), (2, 2), (1, 1)).sizes((4, 4)) == (3, 3)
    assert PoolWindow((2, 2), (2, 2), (1, 0)).sizes((3, 4)) == (2, 2)
    assert PoolWindow((1, 2), (3, 3), (0, 1)).sizes((5, 5)) == (2, 2)
    assert PoolWindow((2, 2), (2, 2), floor=True).sizes((5, 5)) == (2, 2)


def test_large_sizes_are_rounded_in_single_precision() -> None:
    size = 2**25 + 3
    assert PoolWindow((1, 1), (2, 2)).sizes((size, 1))[0] == 2**24 + 1
    assert int(np.ceil((size - 1) / 2)) + 1 == 2**24 + 2


@pytest.mark.parametrize(("stride", "average"), [(3, float("nan")), (4, 0.0)])
def test_empty_windows(stride: int, average: float) -> None:
    window = PoolWindow((1, 1), (2, stride))
    assert window.sizes((3, 3)) == (2, 2)
    x = torch.ones(1, 1, 3, 3)
    y, mask = max_pool(x, window, with_mask=True)
    assert y[0, 0].tolist() == [[1, LOWEST], [1, LOWEST]]
    assert mask[0, 0].tolist() == [[0, -1], [6, -1]]
    np.testing.assert_array_equal(average_pool(x, window)[0, 0], [[1, average], [1, average]])


def test_nan_never_wins_and_takes_no_gradient() -> None:
    values = [float("nan"), 1.0, float("nan"), float("nan"), float("-inf"), 2.0]
    x = torch.tensor(values).reshape(1, 1, 1, 6).requires_grad_()
    y, mask = max_pool(x, PoolWindow((1, 2), (1, 2)), with_mask=True)
    assert y.flatten().tolist() == [1.0, LOWEST, 2.0]
    assert mask.flatten().tolist() == [1, -1, 5]
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0, 1, 0, 0, 0, 1]


def test_gradient_goes_to_the_first_of_equal_values() -> None:
    x = torch.ones(1, 1, 3, 3, requires_grad=True)
    y, _ = max_pool(x, PoolWindow((3, 3), (1, 1), (2, 2)))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0].tolist() == [[9, 3, 3], [3, 1, 1], [3, 1, 1]]


def test_sum_windows_counts_only_the_image() -> None:
    window = PoolWindow((2, 2), (2, 2), (1, 1))
    assert sum_windows(torch.ones(1, 1, 3, 3), window)[0, 0].tolist() == [[1, 2], [2, 4]]
