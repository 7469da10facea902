from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.data import decode_datum, open_records, write_datums
from caffe_bridge.errors import BlobError, BridgeError, DataError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.net.features import extract_features, feature_datum
from caffe_bridge.schema import Record, encode

NET = """layer { name: "d" type: "Data" top: "data" top: "label"
  data_param { source: "db" batch_size: 4 backend: LMDB } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "c" top: "ip"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Net:
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 255, (6, 1, 5, 5)).astype(np.uint8)
    write_datums("db", images, range(6))
    Path("net.prototxt").write_text(NET)
    made = Net(parse_net(NET), seed=0)
    made.save("w.caffemodel")
    return made


def test_datum_bytes_are_those_of_the_message() -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    record = Record("Datum", channels=2, height=3, width=4, float_data=values.ravel().tolist())
    assert feature_datum(values) == encode(record)


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_items_of_all_batches(net: Net, backend: str) -> None:
    counts = extract_features(
        "net.prototxt", "w.caffemodel", {"ip": "ip_db", "c": "c_db"}, 2, backend
    )
    assert counts == {"ip": 8, "c": 8}
    for _ in range(2):
        net.evaluate()
    for blob, shape in (("ip", (6, 1, 1)), ("c", (2, 3, 3))):
        reader = open_records(f"{blob}_db", backend)
        found = [reader.take() for _ in range(8)]
        reader.close()
        assert [bytes(key) for key, _, _ in found] == [b"%010d" % i for i in range(8)]
        second = np.stack([decode_datum(bytes(v), "")[0] for _, v, _ in found[4:]])
        assert second.shape[1:] == shape
        want = net.values[blob].numpy().reshape(second.shape)
        np.testing.assert_allclose(second, want, rtol=1e-6)


def by_hand(channels: int, height: int, width: int, values: np.ndarray) -> bytes:
    """A Datum's wire format: three varints in fields 1 to 3, then field 6 once for each float."""
    head = bytes([1 << 3, channels, 2 << 3, height, 3 << 3, width])
    return head + b"".join(b"\x35" + struct.pack("<f", value) for value in values.ravel())


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_records_are_those_of_caffes_tool(net: Net, backend: str) -> None:
    """Keys of ten digits; legacy sizes (1 for axes that a blob lacks); no label, no data."""
    text = (
        NET
        + """layer { name: "l" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label"
      top: "loss" loss_weight: 1 }"""
    )
    Path("loss.prototxt").write_text(text)
    blobs = ("c", "ip", "label", "loss")
    counts = extract_features(
        "loss.prototxt", "w.caffemodel", {b: f"{b}_db" for b in blobs}, 3, backend
    )
    assert counts == {"c": 12, "ip": 12, "label": 12, "loss": 3}
    other = Net(parse_net(text), weights="w.caffemodel")
    other.eval()
    want: dict[str, list[bytes]] = {blob: [] for blob in blobs}
    for _ in range(3):
        other.evaluate()
        for blob, sizes in zip(blobs, [(2, 3, 3), (6, 1, 1), (1, 1, 1), (1, 1, 1)], strict=True):
            values = other.values[blob].numpy()
            items = values if values.ndim else values[None]
            want[blob] += [by_hand(*sizes, item) for item in items]
    for blob in blobs:
        reader = open_records(f"{blob}_db", backend)
        last = False
        found = []
        while not last:
            key, value, last = reader.take()
            found.append((bytes(key), bytes(value)))
        reader.close()
        assert found == [(b"%010d" % i, value) for i, value in enumerate(want[blob])]


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_features_are_data_of_another_net(net: Net, backend: str) -> None:
    extract_features("net.prototxt", "w.caffemodel", {"c": "c_db"}, 1, backend)
    net.evaluate()
    reader = Net(
        parse_net(f"""layer {{ name: "d" type: "Data" top: "c" data_param {{
      source: "c_db" batch_size: 4 backend: {backend.upper()} }} }}""")
    )
    reader.evaluate()
    np.testing.assert_array_equal(reader.values["c"].numpy(), net.values["c"].numpy())


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"caffe_bridge.data.{backend}.BYTES_PER_COMMIT", 1 << 20)
    text = """layer { name: "d" type: "DummyData" top: "x" dummy_data_param {
      shape { dim: 4 dim: 25000 } data_filler { type: "constant" value: 1 } } }
    layer { name: "p" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }
    layer { name: "ip" type: "InnerProduct" bottom: "y" top: "z" inner_product_param {
      num_output: 1 } }"""
    Path("big.prototxt").write_text(text)
    Net(parse_net(text), seed=0).save("big.caffemodel")
    batches = 40
    tracemalloc.start()
    extract_features("big.prototxt", "big.caffemodel", {"y": "y_db"}, batches, backend)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batches * 4 * 25000 * 5 > 4 * peak


def test_nothing_is_left_of_a_pass_that_fails(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    assert net.layers
    passes = []

    def failing(model: Net, feed: object = None) -> float:
        passes.append(1)
        if len(passes) == 2:
            raise BridgeError("as meant")
        return evaluate(model)

    evaluate = Net.evaluate
    monkeypatch.setattr(Net, "evaluate", failing)
    before = sorted(path.name for path in Path().iterdir())
    with pytest.raises(BridgeError, match="as meant"):
        extract_features("net.prototxt", "w.caffemodel", {"ip": "a", "c": "b"}, 2)
    assert sorted(path.name for path in Path().iterdir()) == before


@pytest.mark.usefixtures("net")
def test_refusals() -> None:
    with pytest.raises(BridgeError, match="two blobs go to one data base"):
        extract_features("net.prototxt", "w.caffemodel", {"ip": "x", "c": "./x"}, 1)
    with pytest.raises(DataError, match="exists already"):
        extract_features("net.prototxt", "w.caffemodel", {"ip": "db"}, 1)
    with pytest.raises(BlobError, match="no blob 'nope'"):
        extract_features("net.prototxt", "w.caffemodel", {"nope": "x"}, 1)
    with pytest.raises(BridgeError, match="at least one blob"):
        extract_features("net.prototxt", "w.caffemodel", {"ip": "x"}, 0)
