"""The generic decomposition checker and what it is made of."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from caffe_bridge.compress import LayerPlan, Plan, decomposition, rewrite
from caffe_bridge.compress.target import Target, find_targets
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net, stored_arrays
from caffe_bridge.onnx_export.verify import verify
from caffe_bridge.schema import Record, StoredBlob, Weights, format_text, parse_text

#: float32 sums of two layers instead of one, relative to the largest output.
CLOSE = 2e-5
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


def product(blobs: dict[str, list[np.ndarray]], target: Target) -> np.ndarray:
    """The weight matrix [N, K] that the lowrank and linear layers stand for together."""
    basis = blobs[f"{target.name}_lowrank"][0].astype(np.float64)
    combination = blobs[f"{target.name}_linear"][0].astype(np.float64)
    if target.is_fc and target.record.inner_product_param.transpose:
        basis, combination = basis.T, combination.T
    parts = zip(
        np.split(basis.reshape(len(basis), -1), target.group),
        np.split(combination.reshape(len(combination), -1), target.group),
        strict=True,
    )
    return np.concatenate([c @ b for b, c in parts])


def check_decomposition(
    text: str,
    shape: tuple[int, ...],
    method: str = "pca",
    options: dict | None = None,
    onnx: bool = True,
) -> None:
    """A layer ``c`` or ``f`` of a net with input ``x``, decomposed at every rank.

    The net's answer is unchanged at full rank; the error of the weights equals the predicted one
    and does not grow with the rank; shapes, bias and parameter counts are as the formula says; the
    written prototxt parses and its ONNX form answers the same.
    """
    record, weights = filled(text)
    target = next(t for t in find_targets(record, weights).values() if isinstance(t, Target))
    made = decomposition(method, options)
    most = made.max_rank(target.weight, target.group)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    wanted = outputs(text, weights, x)
    errors = []
    norm = np.linalg.norm(target.weight)
    for rank in range(target.group, most + 1, target.group):
        entry = LayerPlan(target.name, method, rank, options=options or {})
        new_text, new_weights, blobs = decompose(text, weights, [entry])
        error = np.linalg.norm(target.weight - product(blobs, target)) / norm
        predicted = made.predicted_error(target.weight, rank, target.group)
        assert abs(error - predicted) < PREDICTED
        errors.append(error)
        lowrank, linear = blobs[f"{target.name}_lowrank"], blobs[f"{target.name}_linear"]
        assert len(lowrank) == 1
        assert lowrank[0].size == rank * target.inputs
        assert linear[0].size == target.num_output * rank // target.group
        assert len(linear) == len(weights.blobs[target.name])
        found = outputs(new_text, new_weights, x)
        assert {b: v.shape for b, v in found.items() if b in wanted} == {
            b: v.shape for b, v in wanted.items()
        }
    assert all(later <= earlier + PREDICTED for earlier, later in pairwise(errors))
    assert errors[-1] < PREDICTED
    for blob, value in wanted.items():
        assert relative(found[blob], value) < CLOSE
    if onnx:
        verify(Net(parse_net(new_text), weights=new_weights)).require(text)
