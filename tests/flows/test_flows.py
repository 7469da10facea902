"""The well-known notebooks as scripts on small nets and real 8x8 digits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

import caffe_bridge.pycaffe as caffe
from caffe_bridge.data import decode_datum, open_records, write_datums
from caffe_bridge.net.features import extract_features
from caffe_bridge.pycaffe import layers as L  # noqa: N812
from caffe_bridge.pycaffe import params as P  # noqa: N812

SOLVER = """train_net: "{train}" base_lr: {rate} momentum: 0.9 weight_decay: 0.0005
lr_policy: "fixed" max_iter: 500 snapshot_prefix: "snap" random_seed: 1 {more}"""
XAVIER = {"type": "xavier"}


@pytest.fixture
def digits() -> tuple[np.ndarray, np.ndarray]:
    found = load_digits()
    images = (found.images * 15).astype(np.uint8)[:, None]
    write_datums("train_lmdb", images[:1500], found.target[:1500])
    write_datums("test_lmdb", images[1500:], found.target[1500:])
    return images, found.target


@pytest.fixture
def python_layers() -> Iterator[None]:
    before = caffe.allow_python_layers()
    yield
    caffe.allow_python_layers(before)


def data(folder: str, batch: int) -> tuple[caffe.Top, caffe.Top]:
    made: tuple[caffe.Top, caffe.Top] = L.Data(
        batch_size=batch, backend=P.Data.LMDB, source=folder,
        transform_param={"scale": 1.0 / 255}, ntop=2,
    )  # fmt: skip
    return made


def lenet(folder: str, batch: int, classes: int = 10, last: str = "score") -> caffe.NetSpec:
    n = caffe.NetSpec()
    n.data, n.label = data(folder, batch)
    n.conv1 = L.Convolution(n.data, kernel_size=3, num_output=8, weight_filler=XAVIER)
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.fc1 = L.InnerProduct(n.pool1, num_output=32, weight_filler=XAVIER)
    n.relu1 = L.ReLU(n.fc1, in_place=True)
    n[last] = L.InnerProduct(n.relu1, num_output=classes, weight_filler=XAVIER)
    n.loss = L.SoftmaxWithLoss(n[last], n.label)
    return n


def write(name: str, content: object) -> str:
    Path(name).write_text(str(content))
    return name


def solver(
    train: caffe.NetSpec, test: caffe.NetSpec | None = None, rate: float = 0.05
) -> caffe.PySolver:
    write("train.prototxt", train.to_proto())
    more = ""
    if test is not None:
        write("test.prototxt", test.to_proto())
        more = 'test_net: "test.prototxt" test_iter: 1 test_interval: 1000'
    text = SOLVER.format(train="train.prototxt", rate=rate, more=more)
    return caffe.SGDSolver(write("solver.prototxt", text))


def accuracy(made: caffe.PySolver, blob: str = "score") -> float:
    net = made.test_nets[0]
    net.forward()
    return float((net.blobs[blob].data.argmax(1) == net.blobs["label"].data).mean())


@pytest.mark.usefixtures("digits")
def test_learning_lenet() -> None:
    made = solver(lenet("train_lmdb", 50), lenet("test_lmdb", 297))
    made.net.forward()
    made.test_nets[0].forward(start="conv1")
    start = accuracy(made)
    losses = []
    for _ in range(120):
        made.step(1)
        losses.append(float(made.net.blobs["loss"].data))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    assert accuracy(made) > max(0.8, start)
    assert made.net.params["conv1"][0].diff.shape == (8, 1, 3, 3)


def test_classification_with_transformer_and_oversampling(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    made = solver(lenet("train_lmdb", 50))
    made.step(120)
    made.net.save("w.caffemodel")
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [10, 1, 8, 8]})
    n.conv1 = L.Convolution(n.data, kernel_size=3, num_output=8)
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.fc1 = L.InnerProduct(n.pool1, num_output=32)
    n.relu1 = L.ReLU(n.fc1, in_place=True)
    n.score = L.InnerProduct(n.relu1, num_output=10)
    n.prob = L.Softmax(n.score)
    deploy = write("deploy.prototxt", n.to_proto())
    images, labels = digits
    right = []
    classifier = caffe.Classifier(deploy, "w.caffemodel", image_dims=(9, 9))
    net = caffe.Net(deploy, "w.caffemodel", caffe.TEST)
    transformer = caffe.io.Transformer({"data": net.blobs["data"].data.shape})
    transformer.set_transpose("data", (2, 0, 1))
    for number in range(1500, 1530):
        cv2.imwrite("digit.png", images[number, 0])
        image = caffe.io.load_image("digit.png", color=False)
        net.blobs["data"].data[...] = transformer.preprocess("data", image)
        right.append(net.forward()["prob"][0].argmax() == labels[number])
        assert classifier.predict([image]).shape == (1, 10)
    assert np.mean(right) > 0.8


@pytest.mark.usefixtures("digits")
def test_net_surgery_makes_a_dense_classifier() -> None:
    made = solver(lenet("train_lmdb", 20))
    made.step(5)
    made.net.save("w.caffemodel")

    def body(size: int, dense: bool) -> caffe.NetSpec:
        n = caffe.NetSpec()
        n.data = L.Input(shape={"dim": [1, 1, size, size]})
        n.conv1 = L.Convolution(n.data, kernel_size=3, num_output=8)
        n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
        if dense:
            n["fc1-conv"] = L.Convolution(n.pool1, kernel_size=3, num_output=32)
            n.relu1 = L.ReLU(n["fc1-conv"], in_place=True)
            n["score-conv"] = L.Convolution(n.relu1, kernel_size=1, num_output=10)
        else:
            n.fc1 = L.InnerProduct(n.pool1, num_output=32)
            n.relu1 = L.ReLU(n.fc1, in_place=True)
            n.score = L.InnerProduct(n.relu1, num_output=10)
        return n

    fc = caffe.Net(write("fc.prototxt", body(8, False).to_proto()), "w.caffemodel", caffe.TEST)
    path = write("conv.prototxt", body(12, True).to_proto())
    conv = caffe.Net(path, "w.caffemodel", caffe.TEST)
    for old, new in (("fc1", "fc1-conv"), ("score", "score-conv")):
        conv.params[new][0].data.flat = fc.params[old][0].data.flat
        conv.params[new][1].data[...] = fc.params[old][1].data
    big = np.random.default_rng(0).random((1, 1, 12, 12)).astype(np.float32)
    dense = conv.forward(data=big)["score-conv"]
    assert dense.shape == (1, 10, 3, 3)
    for row in range(3):
        for column in range(3):
            window = big[:, :, 2 * row : 2 * row + 8, 2 * column : 2 * column + 8]
            alone = fc.forward(data=window)["score"]
            np.testing.assert_allclose(dense[0, :, row, column], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("digits")
def test_fine_tuning_by_layer_names() -> None:
    first = solver(lenet("train_lmdb", 50))
    first.step(80)
    first.net.save("w.caffemodel")
    tuned = solver(lenet("train_lmdb", 50, last="new_score"), rate=0.01)
    fresh = np.array(tuned.net.params["new_score"][0].data)
    tuned.net.copy_from("w.caffemodel")
    np.testing.assert_array_equal(
        tuned.net.params["conv1"][0].data, first.net.params["conv1"][0].data
    )
    np.testing.assert_array_equal(tuned.net.params["new_score"][0].data, fresh)
    scratch = solver(lenet("train_lmdb", 50, last="new_score"), rate=0.01)
    losses = {}
    for name, made in (("tuned", tuned), ("scratch", scratch)):
        made.step(30)
        losses[name] = float(made.net.blobs["loss"].data)
    assert losses["tuned"] < losses["scratch"]


@pytest.mark.usefixtures("digits")
def test_filter_visualisation() -> None:
    made = solver(lenet("train_lmdb", 20))
    made.step(2)
    filters = made.net.params["conv1"][0].data
    shown = (filters - filters.min()) / (filters.max() - filters.min())
    side = int(np.ceil(np.sqrt(len(shown))))
    padded = np.pad(shown[:, 0], ((0, side**2 - len(shown)), (0, 1), (0, 1)), constant_values=1)
    tiles = padded.reshape(side, side, 4, 4).transpose(0, 2, 1, 3).reshape(4 * side, 4 * side)
    assert cv2.imwrite("filters.png", (tiles * 255).astype(np.uint8))
    assert caffe.io.load_image("filters.png", color=False).shape == (12, 12, 1)
    responses = made.net.blobs["conv1"].data[0]
    assert responses.shape == (8, 6, 6)
    assert responses.std() > 0


@pytest.mark.usefixtures("python_layers")
def test_python_data_layer() -> None:
    n = caffe.NetSpec()
    n.data, n.label = L.Python(
        module="tests.pycaffe.python_layers", layer="Digits", param_str="32", ntop=2
    )
    n.score = L.InnerProduct(n.data, num_output=2, weight_filler=XAVIER)
    n.loss = L.SoftmaxWithLoss(n.score, n.label)
    made = solver(n, rate=0.5)
    made.step(1)
    first = float(made.net.blobs["loss"].data)
    made.step(60)
    assert float(made.net.blobs["loss"].data) < 0.5 * first


@pytest.mark.usefixtures("digits")
def test_feature_extraction() -> None:
    made = solver(lenet("train_lmdb", 50))
    made.step(20)
    made.net.save("w.caffemodel")
    write("features.prototxt", lenet("test_lmdb", 10).to_proto())
    counts = extract_features("features.prototxt", "w.caffemodel", {"fc1": "fc1_lmdb"}, 3)
    assert counts == {"fc1": 30}
    reader = open_records("fc1_lmdb", "lmdb")
    stored = np.stack([decode_datum(bytes(reader.take()[1]), "")[0].ravel() for _ in range(30)])
    reader.close()
    net = caffe.Net("features.prototxt", "w.caffemodel", caffe.TEST)
    for batch in range(3):
        net.forward()
        np.testing.assert_allclose(
            stored[10 * batch : 10 * batch + 10], net.blobs["fc1"].data, rtol=1e-4, atol=1e-5
        )


def test_siamese_net(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 1500, (4000, 2))
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    keep = np.concatenate([np.flatnonzero(same)[:300], np.flatnonzero(~same)[:300]])
    keep = rng.permutation(keep)
    both = np.concatenate([images[pairs[keep, 0]], images[pairs[keep, 1]]], axis=1)
    write_datums("pairs_lmdb", both, same[keep].astype(int))

    n = caffe.NetSpec()
    n.pair_data, n.sim = data("pairs_lmdb", 50)
    n.data, n.data_p = L.Slice(n.pair_data, slice_point=1, ntop=2)
    for ending in ("", "_p"):
        n["ip1" + ending] = L.InnerProduct(
            n["data" + ending], num_output=32, weight_filler=XAVIER,
            param=[{"name": "ip1_w"}, {"name": "ip1_b"}],
        )  # fmt: skip
        n["relu1" + ending] = L.ReLU(n["ip1" + ending], in_place=True)
        n["feat" + ending] = L.InnerProduct(
            n["relu1" + ending], num_output=2, weight_filler=XAVIER,
            param=[{"name": "feat_w"}, {"name": "feat_b"}],
        )  # fmt: skip
    n.loss = L.ContrastiveLoss(n.feat, n.feat_p, n.sim, margin=1)
    made = solver(n, rate=0.05)
    losses = []
    for _ in range(150):
        made.step(1)
        losses.append(float(made.net.blobs["loss"].data))
    assert np.mean(losses[-12:]) < 0.6 * np.mean(losses[:12])
    net = made.net
    np.testing.assert_array_equal(net.params["ip1"][0].data, net.params["ip1_p"][0].data)
    distance = np.linalg.norm(net.blobs["feat"].data - net.blobs["feat_p"].data, axis=1)
    alike = net.blobs["sim"].data == 1
    assert distance[alike].mean() < distance[~alike].mean()
