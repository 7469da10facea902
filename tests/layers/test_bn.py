from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError, WeightError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.schema import Record, make_blob, write_binary
from tests.helpers import check_layer, layer_spec_of, net_text

SHAPE = (4, 3, 2, 5)
SLOPE, BIAS = np.array([2.0, -0.5, 1.0]), np.array([0.25, 1.0, -1.0])
MEAN, VARIANCE = np.array([0.5, -1.0, 2.0]), np.array([1.0, 4.0, 0.25])


def line(values: np.ndarray, rank: int = 4) -> np.ndarray:
    return values.reshape(-1, *(1,) * (rank - 2))


def normal(x: np.ndarray, m: np.ndarray, v: np.ndarray, eps: float) -> np.ndarray:
    return (x - line(m, x.ndim)) / np.sqrt(line(v, x.ndim) + eps)


def affine(x: np.ndarray, s: np.ndarray, b: np.ndarray) -> np.ndarray:
    return x * line(s, x.ndim) + line(b, x.ndim)


def own(x: np.ndarray, eps: float) -> np.ndarray:
    axes = (0, *range(2, x.ndim))
    return normal(x, x.mean(axes), x.var(axes), eps)


def blobs(*shape: int) -> list[np.ndarray]:
    return [v.reshape(shape) for v in (SLOPE, BIAS, MEAN, VARIANCE)]


def stored_file(path: Path, kind: str, values: list[np.ndarray]) -> Path:
    net = Record("NetParameter")
    layer = net.add("layer", name="l", type=kind)
    layer.blobs = [make_blob(v.astype(np.float32)) for v in values]
    return write_binary(net, path)


def loaded(path: Path, layer: str, phase: str = "TEST") -> Net:
    net = Net(layer_spec_of(layer, [SHAPE], 1, phase))
    net.load(path)
    return net


@pytest.mark.parametrize("shape", [SHAPE, (4, 3), (2, 3, 2, 2, 2)])
@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_pspnet(shape: tuple[int, ...], phase: str) -> None:
    def reference(x: np.ndarray, s: np.ndarray, b: np.ndarray, m: np.ndarray, v: np.ndarray):
        unit = normal(x, m, v, 1e-3) if phase == "TEST" else own(x, 1e-3)
        return affine(unit, s, b)

    check_layer(
        'type: "BN" bn_param { eps: 1e-3 slope_filler { value: 1 } }',
        [shape],
        [shape],
        reference,
        phase=phase,
        blobs=blobs(1, 3),
        in_place=phase == "TEST",
        onnx=phase == "TEST",
    )


@pytest.mark.parametrize("kind", ["BN", "CuDNNBatchNorm"])
def test_frozen(kind: str) -> None:
    field = "bn_param" if kind == "BN" else "batch_norm_param"
    text = f'type: "{kind}" {field} {{ frozen: true }}'
    net = Net(layer_spec_of(text, [SHAPE], 1, "TRAIN"))
    assert [b.lr_mult for b in net.learnable] == [0] * 4
    assert [float(b.detach().sum()) for b in net.layer("l").blobs] == [0, 0, 0, 3]
    x = torch.randn(SHAPE)
    net.layer("l").blobs[0].data.fill_(2.0)
    want = 2 * x / np.sqrt(1 + 1e-5)
    torch.testing.assert_close(net.layer("l")(x), want)
    assert float(net.layer("l").blobs[2].sum()) == 0


def test_pspnet_follows_the_batches() -> None:
    text = 'type: "BN" bn_param { momentum: 0.75 slope_filler { value: 1 } }'
    net = Net(layer_spec_of(text, [SHAPE], 1, "TRAIN"))
    assert [b.lr_mult for b in net.learnable] == [1, 1, 0, 0]
    x = np.random.default_rng(0).standard_normal(SHAPE)
    for _ in range(2):
        net.layer("l")(torch.from_numpy(x.astype(np.float32)))
    share = 0.25 + 0.75 * 0.25
    mean, variance = (b.detach().numpy().reshape(-1) for b in list(net.layer("l").blobs)[2:])
    np.testing.assert_allclose(mean, share * x.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(variance, share * x.var((0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("mode", ["LEARN", "INFERENCE"])
@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_segnet(mode: str, phase: str) -> None:
    check_layer(
        f'type: "BN" bn_param {{ bn_mode: {mode} scale_filler {{ value: 1 }} }}',
        [SHAPE],
        [SHAPE],
        lambda x, s, b: affine(x if mode == "INFERENCE" else own(x, 1e-9), s, b),
        phase=phase,
        blobs=blobs(1, 3, 1, 1)[:2],
        onnx=phase == "TEST",
    )


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
@pytest.mark.parametrize("average", ["true", "false"])
def test_caffe_windows(phase: str, average: str) -> None:
    def reference(x: np.ndarray, s: np.ndarray, b: np.ndarray, m: np.ndarray, v: np.ndarray):
        stored = phase == "TEST" and average == "true"
        return affine(normal(x, m, v, 0.01) if stored else own(x, 0.01), s, b)

    check_layer(
        f'type: "BN" bn_param {{ moving_average: {average} var_eps: 0.01 }}',
        [SHAPE],
        [SHAPE],
        reference,
        phase=phase,
        blobs=blobs(1, 3, 1, 1),
        onnx=phase == "TEST",
    )


def test_caffe_windows_decay_is_the_new_share() -> None:
    net = Net(layer_spec_of('type: "BN" bn_param { decay: 0.9 }', [SHAPE], 1, "TRAIN"))
    x = torch.randn(SHAPE)
    net.layer("l")(x)
    torch.testing.assert_close(net.layer("l").blobs[2].reshape(-1), 0.9 * x.mean((0, 2, 3)))


def test_cudnn_batch_norm() -> None:
    check_layer(
        'type: "CuDNNBatchNorm"',
        [SHAPE],
        [SHAPE],
        lambda x, s, b, m, v: affine(normal(x, m, v, 1e-5), s, b),
        blobs=blobs(1, 3, 1, 1),
    )
    text = 'type: "CuDNNBatchNorm" batch_norm_param { moving_average_fraction: 0.5 }'
    net = Net(layer_spec_of(text, [SHAPE], 1, "TRAIN"))
    x = torch.randn(SHAPE)
    net.layer("l")(x)
    want = 0.5 * x.var((0, 2, 3), unbiased=True)
    torch.testing.assert_close(net.layer("l").blobs[3].reshape(-1), want)


def test_files_of_the_other_forks(tmp_path: Path) -> None:
    x = torch.randn(SHAPE)
    wide = stored_file(tmp_path / "wide", "BN", blobs(1, 3, 1, 1))
    merged = stored_file(tmp_path / "merged", "BN", blobs(1, 3, 1, 1)[:2])
    scaled = affine(x.double().numpy(), SLOPE, BIAS)

    narrow = loaded(wide, 'type: "BN"').layer("l")(x).detach().numpy()
    unit = normal(x.double().numpy(), MEAN, VARIANCE, 1e-5)
    np.testing.assert_allclose(narrow, affine(unit, SLOPE, BIAS), rtol=1e-4, atol=1e-4)

    running = loaded(merged, 'type: "BN"').layer("l")(x).detach().numpy()
    np.testing.assert_allclose(running, scaled, rtol=1e-5, atol=1e-5)

    layer = 'type: "BN" bn_param { bn_mode: INFERENCE }'
    folded = loaded(wide, layer).layer("l")(x).detach().numpy()
    unit = normal(x.double().numpy(), MEAN, VARIANCE, 1e-9)
    np.testing.assert_allclose(folded, affine(unit, SLOPE, BIAS), rtol=1e-4, atol=1e-4)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="has no channels"):
        Net(parse_net(net_text('type: "BN"', [(3,)], 1)))
    other = stored_file(tmp_path / "other", "BN", [np.zeros((1, 4, 1, 1))] * 4)
    with pytest.raises(WeightError, match=r"blob 0 .* has shape \(1, 4, 1, 1\), the net wants"):
        loaded(other, 'type: "BN"')
    three = stored_file(tmp_path / "three", "BN", blobs(1, 3)[:3])
    with pytest.raises(WeightError, match="stores 3 blobs for it, the net has 4"):
        loaded(three, 'type: "BN"')
