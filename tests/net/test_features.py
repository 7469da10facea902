from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.data import decode_datum, open_records, write_datums
from caffe_bridge.errors import BlobError, BridgeError
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


@pytest.mark.usefixtures("net")
def test_refusals() -> None:
    with pytest.raises(BlobError, match="no blob 'nope'"):
        extract_features("net.prototxt", "w.caffemodel", {"nope": "x"}, 1)
    with pytest.raises(BridgeError, match="at least one blob"):
        extract_features("net.prototxt", "w.caffemodel", {"ip": "x"}, 0)
