"""Copying weights by Caffe's rules, and saving them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.errors import SchemaError, WeightError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net, share_weights, stored_arrays
from caffe_bridge.schema import Record, load_weights, make_blob, write_binary
from caffe_bridge.schema.hdf5 import write_weights
from tests.shared import GOLDEN, needs_shared

DATA = "layer { name: 'data' type: 'Input' top: 'x' input_param { shape { dim: [2, 3] } } }\n"


def ip(name: str, bottom: str, top: str, extra: str = "", outputs: int = 3) -> str:
    return (
        f"layer {{ name: '{name}' type: 'InnerProduct' bottom: '{bottom}' top: '{top}' {extra} "
        f"inner_product_param {{ num_output: {outputs} weight_filler {{ type: 'xavier' }} }} }}\n"
    )


BOTH = "param { name: 'w' } param { name: 'b' }"
TWO = DATA + ip("a", "x", "y") + ip("b", "y", "z")
TWINS = DATA + ip("a", "x", "y", BOTH) + ip("b", "y", "z", BOTH)
HALF = DATA + ip("a", "x", "y", "param { } param { name: 'b' }")
HALF += ip("b", "y", "z", "param { } param { name: 'b' }")


def net(text: str, seed: int = 1) -> Net:
    made = Net(parse_net(text, source="n.prototxt"), seed=seed)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for blob in made.learnable:
            blob.value.normal_(generator=generator)
    return made


def model(path: Path, **layers: list[np.ndarray]) -> Path:
    stored = Record("NetParameter")
    for name, arrays in layers.items():
        stored.add("layer", name=name, type="InnerProduct", blobs=[make_blob(a) for a in arrays])
    return write_binary(stored, path)


def same(one: Net, two: Net) -> bool:
    pairs = zip(one.learnable, two.learnable, strict=True)
    return all(torch.equal(a.value, b.value) for a, b in pairs)


@pytest.mark.parametrize("text", [TWO, TWINS, HALF], ids=["two", "twins", "half"])
@pytest.mark.parametrize("name", ["w.caffemodel", "w.caffemodel.h5"])
def test_save_then_load(tmp_path: Path, name: str, text: str) -> None:
    first, second = net(text), net(text, seed=2)
    assert not same(first, second)
    path = first.save(tmp_path / name)
    assert second.load(path) == []
    assert same(first, second)
    assert same(first, Net(parse_net(text), weights=path))


def test_hdf5_leaves_shared_blobs_out(tmp_path: Path) -> None:
    path = net(HALF).save(tmp_path / "w.h5")
    assert [len(blobs) for blobs in load_weights(path).blobs.values()] == [2, 1, 0]
    with pytest.raises(WeightError, match=r"b \(InnerProduct\) .*stores no blob 1 for it"):
        net(TWO).load(path)


def test_binary_files_store_shared_blobs_everywhere(tmp_path: Path) -> None:
    path = net(TWINS).save(tmp_path / "w.caffemodel")
    assert net(TWO).load(path) == []


def test_layers_that_the_file_lacks_are_reported(tmp_path: Path) -> None:
    path = model(
        tmp_path / "w.caffemodel",
        a=[np.ones((3, 3), "f4"), np.ones(3, "f4")],
        extra=[np.ones(9, "f4")],
    )
    made = net(TWO)
    before = made.layer("b").blobs[0].detach().clone()
    assert made.load(path) == ["b"]
    assert (made.layer("a").blobs[0] == 1).all()
    assert torch.equal(made.layer("b").blobs[0], before)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ([np.ones((3, 3))], "stores 1 blobs for it, the net has 2; use the prototxt"),
        ([np.ones((3, 3))] * 3, "stores 3 blobs for it, the net has 2"),
        (
            [np.ones((3, 4)), np.ones(3)],
            r"blob 0 of .* has shape \(3, 4\), the net wants \(3, 3\)",
        ),
        ([np.ones((3, 3)), np.ones((1, 3))], r"blob 1 of .* has shape \(1, 3\)"),
    ],
)
def test_blobs_that_do_not_fit(tmp_path: Path, arrays, reason: str) -> None:
    path = model(tmp_path / "w.caffemodel", a=arrays)
    with pytest.raises(WeightError, match=reason) as caught:
        net(TWO).load(path)
    assert str(caught.value).startswith("a (InnerProduct) at n.prototxt:2: ")
    assert str(path) in str(caught.value)


def test_a_file_without_values(tmp_path: Path) -> None:
    stored = Record("NetParameter")
    layer = stored.add("layer", name="a")
    for shape in ([3, 3], [3]):
        layer.add("blobs").mutable("shape").dim = shape
    path = write_binary(stored, tmp_path / "w.caffemodel")
    with pytest.raises(WeightError, match="but holds 0 values; the file carries no weights"):
        net(TWO).load(path)


def test_legacy_shapes_fit_from_the_end(tmp_path: Path) -> None:
    stored = Record("NetParameter")
    layer = stored.add("layers", name="a", type="INNER_PRODUCT")
    values = np.arange(9, dtype=np.float32)
    layer.add("blobs", num=1, channels=1, height=3, width=3, data=values)
    layer.add("blobs", num=1, channels=1, height=1, width=3, data=values[:3])
    made = net(TWO)
    assert made.load(write_binary(stored, tmp_path / "w.caffemodel")) == ["b"]
    assert np.array_equal(made.layer("a").blobs[0].detach().numpy().reshape(-1), values)
    layer.blobs[1].channels, layer.blobs[1].width = 3, 1
    with pytest.raises(WeightError, match=r"blob 1 of .* has shape \(1, 3, 1, 1\)"):
        made.load(write_binary(stored, tmp_path / "w.caffemodel"))


def test_double_weights(tmp_path: Path) -> None:
    path = model(tmp_path / "w.caffemodel", a=[np.full((3, 3), 0.1), np.full(3, 0.2)])
    made = net(TWO)
    made.load(path)
    assert (made.layer("a").blobs[0] == 0.1).all()


def test_hdf5_shapes_must_be_equal(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "w.h5", [("a", [np.ones((1, 3, 3), "f4"), np.ones(3, "f4")])])
    with pytest.raises(WeightError, match=r"has shape \(1, 3, 3\), the net wants \(3, 3\)"):
        net(TWO).load(path)


def test_layers_of_one_name(tmp_path: Path) -> None:
    text = DATA + ip("a", "x", "y") + ip("a", "y", "z")
    made = net(text)
    arrays = stored_arrays(made.built)
    assert [a.shape for a in arrays["a"]] == [(3, 3), (3,)]
    for name in ("w.caffemodel", "w.h5"):
        other = net(text, seed=2)
        other.load(made.save(tmp_path / name))
        assert torch.equal(other.layers[1].blobs[0], made.layers[1].blobs[0])


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "w.caffemodel"
    path.write_text("layer { }")
    for wrong in (path, tmp_path, tmp_path / "none"):
        with pytest.raises(SchemaError, match=str(wrong)):
            net(TWO).load(wrong)


def test_saving_fails_whole(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="cannot write there"):
        net(TWO).save(tmp_path / "no" / "w.caffemodel")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_contiguous(tmp_path: Path) -> None:
    made = net(TWO)
    made.layer("a").blobs[0].data = torch.empty(3, 3).T
    made.load(model(tmp_path / "w.caffemodel", a=[np.arange(9.0).reshape(3, 3), np.ones(3)]))
    assert torch.equal(made.layer("a").blobs[0].detach().reshape(-1), torch.arange(9.0))


@needs_shared
@pytest.mark.golden
def test_caffes_own_model_survives(tmp_path: Path) -> None:
    folder = GOLDEN / "layers" / "InnerProduct_00"
    made = Net(folder / "net.prototxt", weights=folder / "weights.caffemodel")
    assert made.missing == []
    again = Net(folder / "net.prototxt", weights=made.save(tmp_path / "w.caffemodel"))
    assert same(made, again)
    stored = load_weights(folder / "weights.caffemodel").blobs
    for blob in made.learnable:
        assert np.array_equal(blob.value.detach().numpy(), stored[blob.layer][blob.index].array())


def test_a_test_net_uses_the_training_nets_blobs() -> None:
    owner, user = net(TWO), net(DATA + ip("b", "x", "z"), seed=2)
    own = user.learnable[0].value
    share_weights(user.built, owner.built)
    assert user.layer("b").blobs[0] is owner.layer("b").blobs[0]
    assert user.learnable[0].value is owner.layer("b").blobs[0]
    assert user.learnable[0].value is not own
    with pytest.raises(WeightError, match=r"b \(InnerProduct\) .*in the test net but .*rename one"):
        share_weights(net(DATA + ip("b", "x", "z", outputs=4)).built, owner.built)
