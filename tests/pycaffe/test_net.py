from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import BlobError, BridgeError, DataError
from tests.pycaffe.nets import DEPLOY, TRAIN, write


def train_net() -> caffe.Net:
    return caffe.Net(write("train.prototxt", TRAIN), caffe.TRAIN)


def deploy() -> caffe.Net:
    return caffe.Net(write("deploy.prototxt", DEPLOY), caffe.TEST, seed=0)


def test_memory_outlives_the_net() -> None:
    net = train_net()
    params = [blob.data for blobs in net.params.values() for blob in blobs]
    blobs = [blob.data for blob in net.blobs.values()]
    del net
    assert np.isfinite(sum(array.sum() for array in params + blobs))


def test_names_and_order() -> None:
    net = train_net()
    assert list(net.layer_dict) == list(net._layer_names) == ["data", "conv", "ip", "loss"]
    assert list(net.params) == ["conv", "ip"]
    assert list(net.blobs) == ["data", "label", "conv", "ip_blob", "loss"]
    assert net.layer_dict["conv"].type == "Convolution"
    assert net.inputs == []
    assert net.outputs == ["loss"]
    assert net.top_names["data"] == ["data", "label"]
    assert net.bottom_names["loss"] == ["ip_blob", "label"]
    assert [list(net.blobs)[i] for i in net._outputs] == ["loss"]


def test_loss_weights() -> None:
    weights = train_net().blob_loss_weights
    assert weights["loss"] == 3
    assert weights["conv"] == 0


def test_forward_and_backward_fill_blobs() -> None:
    net = train_net()
    out = net.forward()
    assert set(out) == {"loss"}
    net.backward()
    assert np.abs(net.params["conv"][0].diff).sum() > 0
    net.clear_param_diffs()
    assert np.abs(net.params["conv"][0].diff).sum() == 0


def test_forward_from_one_layer_to_another() -> None:
    net = deploy()
    net.blobs["data"].data[...] = 1
    full = np.array(net.forward()["prob"])
    middle = net.forward(end="relu")
    assert list(middle) == ["conv"]
    net.blobs["conv"].data[...] = 0
    changed = net.forward(blobs=["ip"], start="ip")
    assert set(changed) == {"prob", "ip"}
    assert not np.allclose(changed["prob"], full)
    np.testing.assert_allclose(changed["ip"], 0, atol=1e-6)


def test_edited_params_are_used() -> None:
    net = deploy()
    net.blobs["data"].data[...] = 1
    net.params["ip"][0].data[...] = 0
    net.params["ip"][1].data[...] = [0, 0, 9, 0, 0]
    assert net.forward()["prob"].argmax(1).tolist() == [2, 2]


def test_unknown_names_are_refused() -> None:
    net = deploy()
    with pytest.raises(BlobError, match="no layer 'nope'"):
        net.forward(start="nope")
    with pytest.raises(BlobError, match=r"the inputs are .*given are"):
        net.forward(nope=np.zeros(1))


def test_both_constructor_forms_and_saved_weights() -> None:
    net = deploy()
    net.save("w.caffemodel")
    old = caffe.Net("deploy.prototxt", "w.caffemodel", caffe.TEST)
    new = caffe.Net("deploy.prototxt", caffe.TEST, weights="w.caffemodel")
    for name, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            np.testing.assert_array_equal(blob.data, old.params[name][index].data)
            np.testing.assert_array_equal(blob.data, new.params[name][index].data)
    with pytest.raises(BridgeError, match="needs a phase"):
        caffe.Net("deploy.prototxt")


def test_hdf5_round_trip_with_slashes_in_names() -> None:
    net, other = deploy(), caffe.Net("deploy.prototxt", caffe.TEST, seed=1)
    net.save_hdf5("weights.hdf5")
    other.load_hdf5("weights.hdf5")
    assert list(net.params) == ["a/conv", "ip"]
    np.testing.assert_array_equal(net.params["a/conv"][0].data, other.params["a/conv"][0].data)


def test_share_with() -> None:
    net, other = deploy(), caffe.Net("deploy.prototxt", caffe.TEST, seed=1)
    other.share_with(net)
    net.params["ip"][0].data[...] = 7
    assert np.all(other.params["ip"][0].data == 7)


LEVELS = """name: "levels"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 } } }
layer { name: "always" type: "Split" bottom: "data" top: "x" top: "y" top: "z" }
layer { name: "zero" type: "Silence" bottom: "x" include { max_level: 0 } }
layer { name: "one" type: "Silence" bottom: "y" include { min_level: 1 } }
layer { name: "stage" type: "Silence" bottom: "z" include { stage: "B" } }
"""


@pytest.mark.parametrize(
    ("level", "stages", "kept"),
    [(0, [], ["zero"]), (1, [], ["one"]), (0, ["A"], ["zero"]), (2, ["A", "B"], ["one", "stage"])],
)
def test_level_and_stages(level: int, stages: list[str], kept: list[str]) -> None:
    net = caffe.Net(write("n.prototxt", LEVELS), caffe.TEST, level=level, stages=stages)
    assert [n for n in net._layer_names if n not in ("data", "always")] == kept


def test_forward_all_pads_the_last_batch() -> None:
    net = deploy()
    data = np.random.default_rng(0).standard_normal((5, 3, 6, 6)).astype(np.float32)
    out = net.forward_all(blobs=["ip"], data=data)
    assert out["prob"].shape == (5, 5)
    for number in range(5):
        alone = net.forward(data=np.stack([data[number]] * 2))["prob"][0]
        np.testing.assert_allclose(out["prob"][number], alone, rtol=1e-5)
    with pytest.raises(BlobError, match="inputs are"):
        net.forward_all(other=data)


def test_forward_backward_all() -> None:
    text = "force_backward: true\n" + DEPLOY
    net = caffe.Net(write("d.prototxt", text), caffe.TEST, seed=0)
    rng = np.random.default_rng(1)
    data = rng.standard_normal((3, 3, 6, 6)).astype(np.float32)
    top = rng.standard_normal((3, 5)).astype(np.float32)
    values, grads = net.forward_backward_all(data=data, prob=top, diffs=["ip"])
    assert values["prob"].shape == (3, 5)
    assert grads["data"].shape == data.shape
    net.forward(data=data[:2])
    net.backward(prob=top[:2])
    np.testing.assert_allclose(grads["ip"][:2], net.blobs["ip"].diff, rtol=1e-5, atol=1e-7)


def test_hooks_get_layer_indices() -> None:
    net = train_net()
    seen: list[tuple[str, int]] = []
    net.before_forward(lambda i: seen.append(("bf", i)))
    net.after_forward(lambda i: seen.append(("af", i)))
    net.before_backward(lambda i: seen.append(("bb", i)))
    net.after_backward(lambda i: seen.append(("ab", i)))
    net.forward()
    assert seen == [(kind, i) for i in range(4) for kind in ("bf", "af")]
    seen.clear()
    net.backward()
    assert seen == [(kind, i) for i in (3, 2, 1, 0) for kind in ("bb", "ab")]


def test_set_input_arrays() -> None:
    text = """layer { name: "m" type: "MemoryData" top: "data" top: "label" memory_data_param {
      batch_size: 2 channels: 1 height: 1 width: 3 } }"""
    net = caffe.Net(write("m.prototxt", text), caffe.TEST)
    data = np.arange(12, dtype=np.float32).reshape(4, 1, 1, 3)
    net.set_input_arrays(data, np.arange(4, dtype=np.float32))
    net.forward()
    np.testing.assert_array_equal(net.blobs["data"].data, data[:2])
    net.forward()
    assert net.blobs["label"].data.tolist() == [2, 3]
    with pytest.raises(DataError, match="starts with MemoryData"):
        deploy().set_input_arrays(data, data)


def test_reshape_changes_the_batch() -> None:
    net = deploy()
    net.blobs["data"].reshape(7, 3, 6, 6)
    net.reshape()
    assert net.blobs["prob"].shape == (7, 5)
    assert net.forward()["prob"].shape == (7, 5)


def test_a_missing_file_is_one_sentence(folder: Path) -> None:
    with pytest.raises(BridgeError, match="no such prototxt"):
        caffe.Net(str(folder / "none.prototxt"), caffe.TEST)


def test_arrays_are_fed_as_numpy_assigns_them() -> None:
    """Not by their number of values: (2, 6, 6, 3) is no batch of (3, 6, 6)."""
    net = deploy()
    for shape in ((2, 6, 6, 3), (1, 3, 6, 6), (216,)):
        with pytest.raises(BlobError, match="reshape the blob or the array first"):
            net.forward(data=np.zeros(shape))
    one = np.random.default_rng(0).standard_normal((2, 1, 6, 6)).astype(np.float32)
    net.forward(data=one)
    np.testing.assert_array_equal(net.blobs["data"].data, np.repeat(one, 3, 1))
    with pytest.raises(BlobError, match=r"the diffs of the outputs are \['prob'\]"):
        net.backward(ip=np.zeros((2, 5)))


def test_every_input_is_given_or_none() -> None:
    two = DEPLOY.replace('top: "data" input_param', 'top: "data" top: "other" input_param')
    net = caffe.Net(write("two.prototxt", two), caffe.TEST, seed=0)
    net.forward()
    with pytest.raises(BlobError, match=r"the inputs are \['data', 'other'\], given are"):
        net.forward(data=np.zeros((2, 3, 6, 6)))
