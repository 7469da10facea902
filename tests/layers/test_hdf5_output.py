from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_bridge.errors import DataError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import net_text


def text(file: Path | str, shapes: tuple[tuple[int, ...], ...] = ((2, 3, 2), (2,))) -> str:
    layer = f'type: "HDF5Output" hdf5_output_param {{ file_name: "{file}" }}'
    return net_text(layer, shapes, 0)


def test_rows_of_all_passes(tmp_path: Path) -> None:
    file = tmp_path / "out.h5"
    net = Net(parse_net(text(file)))
    x, y = torch.randn(6, 3, 2), torch.arange(6.0)
    for start in (0, 2, 4):
        assert net({"in0": x[start : start + 2], "in1": y[start : start + 2]}) == {}
        assert not file.exists()
    net.layer("l").close()
    with h5py.File(file) as found:
        assert sorted(found) == ["data", "label"]
        np.testing.assert_array_equal(found["data"], x[..., None])
        np.testing.assert_array_equal(found["label"], y.reshape(6, 1, 1, 1))
        assert found["data"].dtype == np.float32
    with pytest.raises(DataError, match="is closed"):
        net({"in0": x[:2], "in1": y[:2]})


@pytest.mark.parametrize(
    ("shapes", "stored"),
    [
        (((3, 5), (3,)), [(3, 5, 1, 1), (3, 1, 1, 1)]),
        (((2, 3, 4, 5), (2, 1, 1)), [(2, 3, 4, 5), (2, 1, 1, 1)]),
    ],
)
def test_datasets_have_four_axes_as_in_caffe(
    shapes: tuple[tuple[int, ...], ...], stored: list[tuple[int, ...]], tmp_path: Path
) -> None:
    net = Net(parse_net(text(tmp_path / "out.h5", shapes)))
    net({f"in{i}": torch.zeros(shape) for i, shape in enumerate(shapes)})
    net.layer("l").close()
    with h5py.File(tmp_path / "out.h5") as found:
        assert [found["data"].shape, found["label"].shape] == stored


def test_nothing_is_written_without_a_pass(tmp_path: Path) -> None:
    net = Net(parse_net(text(tmp_path / "out.h5")))
    net.layer("l").close()
    assert list(tmp_path.iterdir()) == []


def test_no_node_in_onnx(tmp_path: Path) -> None:
    more = 'layer { name: "r" type: "ReLU" bottom: "in0" top: "z" }'
    net = Net(parse_net(text(tmp_path / "out.h5") + more))
    assert [node.op_type for node in export(net).graph.node] == ["Relu"]


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"gives no hdf5_output_param\.file_name"):
        Net(parse_net(text("")))
    with pytest.raises(ShapeError, match="equally many rows"):
        Net(parse_net(text(tmp_path / "out.h5", ((2, 3), (3,)))))
    with pytest.raises(ShapeError, match=r"up to 4 axes, found shape \(2, 1, 1, 1, 1\)"):
        Net(parse_net(text(tmp_path / "out.h5", ((2, 1, 1, 1, 1), (2,)))))
    net = Net(parse_net(text(tmp_path / "none" / "out.h5")))
    with pytest.raises(DataError, match=r"l \(HDF5Output\).*cannot be written"):
        net({"in0": torch.zeros(2, 3, 2), "in1": torch.zeros(2)})
