from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError, WeightError
from caffe_bridge.net import Net
from caffe_bridge.schema import Record, make_blob, write_binary
from tests.helpers import check_layer, layer_spec_of

SHAPE = (2, 3, 4, 5)


@pytest.mark.parametrize("shape", [SHAPE, (4, 3)])
@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_normalize(shape: tuple[int, ...], across: bool, shared: bool) -> None:
    def reference(x: np.ndarray, s: np.ndarray) -> np.ndarray:
        axes = tuple(range(1, x.ndim)) if across else (1,)
        unit = x / np.sqrt(1e-10 + np.square(x).sum(axes, keepdims=True))
        return unit * s.reshape(-1, *(1,) * (x.ndim - 2))

    net = check_layer(
        f'type: "Normalize" norm_param {{ across_spatial: {str(across).lower()} '
        f"channel_shared: {str(shared).lower()} }}",
        [shape],
        [shape],
        reference,
    )
    assert tuple(net.layer("l").blobs[0].shape) == (() if shared else (3,))


def test_scale_filler() -> None:
    text = 'type: "Normalize" norm_param { scale_filler { type: "constant" value: 20 } }'
    assert Net(layer_spec_of(text, [SHAPE], 1, "TEST")).layer("l").blobs[0].item() == 20
    assert Net(layer_spec_of(text[:17], [SHAPE], 1, "TEST")).layer("l").blobs[0].item() == 1


def stored(path: Path, *blobs: np.ndarray) -> Path:
    net = Record("NetParameter")
    layer = net.add("layer", name="l", type="Normalize")
    if blobs:
        layer.blobs = [make_blob(b.astype(np.float32)) for b in blobs]
    return write_binary(net, path)


def test_files_of_the_face_forks_have_no_factor(tmp_path: Path) -> None:
    file = stored(tmp_path / "face")
    net = Net(layer_spec_of('type: "Normalize"', [(4, 3)], 1, "TEST"))
    net.layer("l").blobs[0].data.fill_(7)
    assert net.load(file) == []
    assert net.layer("l").blobs[0].item() == 1
    ssd = Net(layer_spec_of('type: "Normalize" norm_param {}', [(4, 3)], 1, "TEST"))
    with pytest.raises(WeightError, match="stores 0 blobs for it, the net has 1"):
        ssd.load(file)


def test_the_factor_may_be_stored_in_any_shape(tmp_path: Path) -> None:
    layer = 'type: "Normalize" norm_param { channel_shared: false }'
    net = Net(layer_spec_of(layer, [(4, 3)], 1, "TEST"))
    net.load(stored(tmp_path / "wide", np.arange(3).reshape(1, 3, 1, 1)))
    assert net.layer("l").blobs[0].tolist() == [0, 1, 2]
    with pytest.raises(WeightError, match=r"blob 0 .* has shape \(4,\), the net wants \(3,\)"):
        net.load(stored(tmp_path / "four", np.zeros(4)))


def test_zeros_stay_zeros() -> None:
    layer = Net(layer_spec_of('type: "Normalize"', [SHAPE], 1, "TEST")).layer("l")
    assert not layer(torch.zeros(SHAPE)).any()


@pytest.mark.parametrize("eps", [0.0, 0.5])
@pytest.mark.parametrize("shape", [SHAPE, (4, 3)])
def test_l2_norm(eps: float, shape: tuple[int, ...]) -> None:
    check_layer(
        f'type: "L2Norm" l2_norm_param {{ eps: {eps} }}',
        [shape],
        [shape],
        lambda x: x / np.sqrt(eps + np.square(x).sum(tuple(range(1, x.ndim)), keepdims=True)),
    )


@pytest.mark.parametrize("layer", ["Normalize", "L2Norm"])
def test_two_axes_are_needed(layer: str) -> None:
    with pytest.raises(ShapeError, match="it needs two axes"):
        check_layer(f'type: "{layer}"', [(3,)], [(3,)])
