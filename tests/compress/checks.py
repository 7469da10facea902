"""The generic decomposition checker and what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional

from caffe_bridge.bench.cost import net_cost
from caffe_bridge.compress import Decomposition, LayerPlan, Plan, decomposition, rewrite
from caffe_bridge.compress.target import Target, find_targets
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net, stored_arrays
from caffe_bridge.onnx_export.verify import verify
from caffe_bridge.schema import Record, StoredBlob, Weights, format_text, parse_text

#: float32 sums of two layers instead of one, relative to the largest output.
CLOSE = 1e-5
#: Predicted error (float64) against the product of float32 factors.
PREDICTED = 1e-5

CONV = 'layer {{ name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param {{ {} }} }}'
FC = 'layer {{ name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param {{ {} }} }}'
GAUSS = 'weight_filler { type: "gaussian" std: 0.3 } bias_filler { type: "gaussian" std: 0.3 }'


def net_text(shape: tuple[int, ...], *layers: str) -> str:
    """An Input ``x`` of this shape and the layers."""
    dims = " ".join(f"dim: {d}" for d in shape)
    top = f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}'
    return "\n".join((top, *layers))


def as_weights(blobs: dict[str, list[np.ndarray]]) -> Weights:
    stored = {name: [StoredBlob(a.shape, False, a) for a in b] for name, b in blobs.items()}
    return Weights("weights", stored)


def filled(text: str, seed: int = 1) -> tuple[Record, Weights]:
    """The record of a net and weights from its fillers."""
    built = Net(parse_net(text, source="net.prototxt"), seed=seed).built
    weights = as_weights({k: [np.array(a) for a in b] for k, b in stored_arrays(built).items()})
    return parse_text(text, "NetParameter", "net.prototxt"), weights


def outputs(text: str, weights: Weights, x: np.ndarray, phase: str = "TEST") -> dict:
    """What a net answers, blob by blob; refuses weights that do not fit or lack a layer."""
    net = Net(parse_net(text, phase), weights=weights)
    assert net.missing == []
    with torch.no_grad():
        net({"x": torch.from_numpy(x)})
    return {blob: value.numpy() for blob, value in net.values.items()}


def decompose(
    text: str, weights: Weights, entries: list[LayerPlan]
) -> tuple[str, Weights, dict[str, list[np.ndarray]]]:
    """Prototxt text, weights and arrays of the rewritten net."""
    record = parse_text(text, "NetParameter", "net.prototxt")
    net, blobs = rewrite(record, weights, Plan(entries))
    return format_text(net), as_weights(blobs), blobs


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def product(arrays: Sequence[np.ndarray], target: Target) -> np.ndarray:
    """The weight matrix [N, K] that the weights of a chain stand for together.

    Of convolutions it is what they answer to every input of kernel size with a single one in it.
    """
    if target.is_fc:
        transposed = target.record.inner_product_param.transpose
        first, second = (a.astype(np.float64).T if transposed else a for a in arrays)
        return second.astype(np.float64) @ first
    axes = len(target.kernel)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    channels = target.channels
    size = channels * int(np.prod(target.kernel))
    x = torch.eye(size, dtype=torch.float64).reshape(size, channels, *target.kernel)
    for array in arrays:
        weight = torch.from_numpy(array.astype(np.float64))
        x = convolve(x, weight, groups=x.shape[1] // weight.shape[1])
    whole = x.reshape(size, target.num_output).numpy().T
    made = np.zeros_like(target.weight, np.float64)
    for one in range(target.group):
        rows = slice(one * len(made) // target.group, (one + 1) * len(made) // target.group)
        columns = slice(one * target.inputs, (one + 1) * target.inputs)
        made[rows] = whole[rows, columns]
        whole[rows, columns] = 0
    assert np.abs(whole).max() < PREDICTED
    return made


def rank_grid(target: Target, method: Decomposition) -> list[int]:
    """Ranks from the smallest to the exact one, at most ten."""
    most = method.max_rank(target.blob, target.group)
    most = most if isinstance(most, int) else max(most)
    every = range(target.group, most + 1, target.group)
    step = -(-len(every) // 10)
    return [*every[:-1:step], every[-1]]


def conv_positions(values: dict[str, np.ndarray]) -> list[tuple]:
    """Spatial sizes of the bottom and of every top of a convolution ``c``; none for others."""
    tops = [v for blob, v in values.items() if blob in ("a", "b", "c")]
    return [(values["x"].shape[2:], top.shape[2:]) for top in tops]


def counted(text: str, weights: Weights) -> tuple[int, int]:
    """MACs of one item, and weights without biases, counted from the built layers."""
    net = Net(parse_net(text), weights=weights)
    cost = net_cost(net)
    batch = next(iter(net.inputs.values()))[0]
    matrices = [layer.blobs[0].numel() for layer in net.built.layers if len(layer.blobs)]
    return cost.macs // batch, sum(matrices)


def check_decomposition(
    text: str,
    shape: tuple[int, ...],
    method: str = "pca",
    options: dict | None = None,
    onnx: bool = True,
    slack: float = PREDICTED,
    positions: Callable[[dict[str, np.ndarray]], list[tuple]] | None = conv_positions,
) -> None:
    """A layer ``c`` or ``f`` of a net with input ``x``, decomposed at every rank.

    The net's answer is unchanged at full rank; the error of the weights equals the predicted one
    and does not grow with the rank (by more than ``slack``); shapes, bias, parameters and MACs are
    as the formulae say; the written prototxt parses and its ONNX form answers the same.
    """
    record, weights = filled(text)
    target = next(t for t in find_targets(record, weights).values() if isinstance(t, Target))
    made = decomposition(method, options)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    wanted = outputs(text, weights, x)
    errors = []
    norm = np.linalg.norm(target.weight)
    for rank in rank_grid(target, made):
        entry = LayerPlan(target.name, method, rank, options=options or {})
        new_text, new_weights, blobs = decompose(text, weights, [entry])
        record = parse_text(new_text, "NetParameter")
        chain = [layer.name for layer in record.layer if layer.name.startswith(f"{target.name}_")]
        error = np.linalg.norm(target.weight - product([blobs[n][0] for n in chain], target)) / norm
        ranks = made.ranks(target, rank)
        assert abs(error - made.predicted_error(target.blob, ranks, target.group)) < PREDICTED
        errors.append(error)
        assert [len(blobs[name]) for name in chain[:-1]] == [1] * (len(chain) - 1)
        assert len(blobs[chain[-1]]) == len(weights.blobs[target.name])
        found = outputs(new_text, new_weights, x)
        assert {b: v.shape for b, v in found.items() if b in wanted} == {
            b: v.shape for b, v in wanted.items()
        }
        macs, params = counted(new_text, new_weights)
        assert params == made.params(target, ranks)
        if positions is not None:
            assert macs == sum(made.macs(target, ranks, *sizes) for sizes in positions(wanted))
    assert all(later <= earlier + slack for earlier, later in pairwise(errors))
    assert errors[-1] < PREDICTED
    for blob, value in wanted.items():
        assert relative(found[blob], value) < CLOSE
    if onnx:
        verify(Net(parse_net(new_text), weights=new_weights)).require(text)
