import numpy as np
import pytest

from caffe_bridge.data import MemorySource
from caffe_bridge.errors import DataError
from caffe_bridge.graph import LayerSpec, parse_net

SIZE = "batch_size: 2 channels: 1 height: 2 width: 3"


def layer(param: str = SIZE, more: str = "") -> LayerSpec:
    return parse_net(
        f'layer {{ name: "d" type: "MemoryData" memory_data_param {{ {param} }} {more} }}'
    ).layers[0]


def arrays(count: int) -> tuple[np.ndarray, np.ndarray]:
    data = np.arange(count * 6, dtype=np.float32).reshape(count, 1, 2, 3)
    return data, np.arange(count, dtype=np.float32)


def test_batches_go_round() -> None:
    source = MemorySource(layer())
    data, labels = arrays(4)
    source.set_arrays(data, labels.reshape(4, 1, 1, 1))
    assert source.shapes(2) == [(2, 1, 2, 3), (2,)]
    for first in (0, 2, 0):
        x, y = source.next(2)
        np.testing.assert_array_equal(x, data[first : first + 2])
        np.testing.assert_array_equal(y, [first, first + 1])
    source.reset()
    np.testing.assert_array_equal(source.next(2)[1], [0, 1])


def test_later_changes_are_seen_but_what_was_delivered_stays() -> None:
    source = MemorySource(layer())
    data, labels = arrays(2)
    source.set_arrays(data, labels)
    before, _ = source.next(2)
    data[:] = 5
    np.testing.assert_array_equal(source.next(2)[0], np.full((2, 1, 2, 3), 5))
    assert before[1, 0, 1, 2] == 11


def test_arrays_are_not_transformed_as_in_caffe() -> None:
    source = MemorySource(layer(more="transform_param { crop_size: 2 scale: 3 mirror: true }"))
    assert source.shapes(2) == [(2, 1, 2, 3), (2,)]
    data, labels = arrays(2)
    source.set_arrays(data, labels)
    np.testing.assert_array_equal(source.next(2)[0], data)


def test_refusals() -> None:
    with pytest.raises(DataError, match="found 2, 1, 2, 0"):
        MemorySource(layer("batch_size: 2 channels: 1 height: 2"))
    source = MemorySource(layer())
    with pytest.raises(DataError, match=r"d \(MemoryData\).*call set_input_arrays"):
        source.next(2)
    data, labels = arrays(4)
    for x, y, message in (
        (data[:, :, :1], labels, r"\(4, 1, 1, 3\), expected \(N, 1, 2, 3\)"),
        (data, labels[:3], "4 images but 3 labels"),
        (data[:3], labels[:3], "3 images are not a multiple of batch_size 2"),
        (data[:0], labels[:0], "0 images are not a multiple"),
    ):
        with pytest.raises(DataError, match=message):
            source.set_arrays(x, y)
