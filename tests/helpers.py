"""Shared by all tests: where real material lies, and the generic layer checker."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_bridge.graph import NetSpec, parse_net
from caffe_bridge.layers.base import Layer
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import newest_opset
from caffe_bridge.onnx_export.verify import verify
from caffe_bridge.schema import format_text

#: Real models, datasets and numbers computed by a real Caffe; absent on a bare clone.
SHARED = Path(__file__).resolve().parents[1].parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared real material")

#: float32 sums in another order than the reference.
CLOSE = 2e-5
#: float32 kernels of onnxruntime against torch's.
ONNX_CLOSE = 1e-4
#: Opsets that every exportable layer is checked in.
OPSETS = (13, 17, newest_opset())

Array = np.ndarray
Reference = Callable[..., Any]


def net_text(layer: str, shapes: Sequence[Sequence[int]], tops: int, in_place: bool = False) -> str:
    """A net of Input layers ``in0..`` and one layer ``l`` with tops ``out0..``."""
    lines = []
    for index, shape in enumerate(shapes):
        dims = " ".join(f"dim: {d}" for d in shape)
        lines.append(
            f'layer {{ name: "i{index}" type: "Input" top: "in{index}" '
            f"input_param {{ shape {{ {dims} }} }} }}"
        )
    bottoms = " ".join(f'bottom: "in{i}"' for i in range(len(shapes)))
    names = ["in0"] if in_place else [f"out{i}" for i in range(tops)]
    top_text = " ".join(f'top: "{name}"' for name in names)
    lines.append(f'layer {{ name: "l" {bottoms} {top_text} {layer} }}')
    return "\n".join(lines)


def layer_spec_of(layer: str, shapes: Sequence[Sequence[int]], tops: int, phase: str) -> NetSpec:
    """The filtered one-layer net."""
    return parse_net(net_text(layer, shapes, tops), phase)


def _arrays(bottoms: Sequence[Any], seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [
        b.astype(np.float32)
        if isinstance(b, np.ndarray)
        else rng.standard_normal(tuple(b)).astype(np.float32)
        for b in bottoms
    ]


def _randomise(layer: Layer, seed: int, blobs: Sequence[Array] | None) -> None:
    rng = np.random.default_rng(seed + 1)
    for index, blob in enumerate(layer.blobs):
        values = rng.standard_normal(tuple(blob.shape)) if blobs is None else blobs[index]
        blob.data.copy_(torch.from_numpy(np.asarray(values, np.float32)))


def run_layer(net: Net, arrays: Sequence[Array]) -> list[Array]:
    """Outputs ``out0..`` of a one-layer net for the given bottoms."""
    with torch.no_grad():
        net({f"in{i}": torch.from_numpy(a.copy()) for i, a in enumerate(arrays)})
    return [v.numpy().copy() for k, v in net.values.items() if k.startswith("out")]


def check_layer(
    layer: str,
    bottoms: Sequence[Any],
    tops: Sequence[Sequence[int]],
    reference: Reference | None = None,
    *,
    phase: str = "TEST",
    blobs: Sequence[Array] | None = None,
    gradient: bool = True,
    onnx: bool = True,
    in_place: bool = False,
    macs: int | None = None,
    seed: int = 0,
) -> Net:
    """Hold one layer against everything that can be known about it.

    Args:
        layer: text of the layer without name, bottoms and tops: ``type: "ReLU"``.
        bottoms: shapes (filled with seeded normal values) or arrays.
        tops: expected shapes of the tops.
        reference: numpy function of the bottoms, then the blobs, giving one array or a list.
        phase: "TRAIN" or "TEST".
        blobs: values of the learnable blobs; seeded normal values when None.
        gradient: compare autograd's gradient with finite differences in double precision (the
            inputs must stay away from kinks).
        onnx: export in several opsets and compare in onnxruntime at batch 1, 3 and its own.
        in_place: check that the layer gives the same when it writes its bottom.
        macs: expected multiply-accumulates.
        seed: seed of all random values.

    Returns:
        The net, for further checks.
    """
    arrays = _arrays(bottoms, seed)
    shapes = [a.shape for a in arrays]
    spec = layer_spec_of(layer, shapes, len(tops), phase)
    net = Net(spec, seed=seed)
    module = net.layer("l")
    _randomise(module, seed, blobs)
    start = [blob.detach().numpy().copy() for blob in module.blobs]

    made = run_layer(net, arrays)
    assert [a.shape for a in made] == [tuple(t) for t in tops]
    inferred = net.shapes_for({f"in{i}": s for i, s in enumerate(shapes)})
    assert [inferred[f"out{i}"] for i in range(len(tops))] == [tuple(t) for t in tops]
    if reference is not None:
        want = reference(*(a.astype(np.float64) for a in arrays),
                         *(b.astype(np.float64) for b in start))  # fmt: skip
        for got, expected in zip(made, want if isinstance(want, list) else [want], strict=True):
            np.testing.assert_allclose(got, expected, rtol=CLOSE, atol=CLOSE)
    _restore(module, start)
    if macs is not None:
        assert module.macs(shapes) == macs
    if gradient:
        _check_gradient(module, arrays)
        _restore(module, start)
    if in_place:
        _check_in_place(layer, arrays, made[0], phase, start)
    if onnx:
        for opset in OPSETS:
            result = verify(net, batches=(1, 3, shapes[0][0]), seed=seed, opset=opset)
            assert result.batches, "nothing was compared"
            assert max(d.relative for d in result.differences) <= ONNX_CLOSE, result
        own = verify(net, feed={f"in{i}": torch.from_numpy(a) for i, a in enumerate(arrays)})
        assert max(d.relative for d in own.differences) <= ONNX_CLOSE, own
        _restore(module, start)
    _check_files(net, spec, arrays, made, phase, start)
    return net


def _restore(module: Layer, values: Sequence[Array]) -> None:
    for blob, value in zip(module.blobs, values, strict=True):
        blob.data.copy_(torch.from_numpy(value))


def _check_gradient(module: Layer, arrays: Sequence[Array]) -> None:
    double = module.double()
    leaves = [
        torch.from_numpy(a.astype(np.float64)).requires_grad_(i not in module.no_gradient_bottoms)
        for i, a in enumerate(arrays)
    ]
    params = [blob for blob in double.blobs if blob.requires_grad]

    def function(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(t for t in double.run(inputs[: len(leaves)]) if t.requires_grad)

    assert torch.autograd.gradcheck(function, (*leaves, *params), eps=1e-6, atol=1e-6, rtol=1e-4)
    module.float()


def _check_in_place(
    layer: str, arrays: Sequence[Array], want: Array, phase: str, blobs: Sequence[Array]
) -> None:
    text = net_text(layer, [a.shape for a in arrays], 1, in_place=True)
    net = Net(parse_net(text, phase))
    _restore(net.layer("l"), blobs)
    with torch.no_grad():
        net({f"in{i}": torch.from_numpy(a.copy()) for i, a in enumerate(arrays)})
    np.testing.assert_array_equal(net.values["in0"].numpy(), want)


def _check_files(
    net: Net, spec: NetSpec, arrays: Sequence[Array], made: Sequence[Array], phase: str,
    start: Sequence[Array],
) -> None:  # fmt: skip
    """The layer survives a round trip through prototxt text and a caffemodel."""
    again = Net(parse_net(format_text(spec.record), phase))
    with tempfile.TemporaryDirectory() as folder:
        net.save(Path(folder) / "w.caffemodel")
        again.load(Path(folder) / "w.caffemodel")
    for mine, theirs in zip(again.layer("l").blobs, start, strict=True):
        np.testing.assert_array_equal(mine.detach().numpy(), theirs)
    if phase == "TEST":
        for got, want in zip(run_layer(again, arrays), made, strict=True):
            np.testing.assert_array_equal(got, want)
