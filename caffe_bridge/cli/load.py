"""Building a net from command-line arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caffe_bridge.graph import NetSpec, Shape, load_net
from caffe_bridge.net import Net, with_inputs


def load_spec(
    net: str, phase: str = "TEST", level: int = 0, stages: Sequence[str] = (),
    inputs: Mapping[str, Shape] | None = None,
) -> NetSpec:  # fmt: skip
    """Read and filter a net; data layers named in ``inputs`` become inputs.

    Raises:
        BridgeError: the file cannot be read or the names do not fit.
    """
    spec = load_net(net, phase, level, tuple(stages))
    return with_inputs(spec, inputs) if inputs else spec


def load_model(
    net: str, weights: str | None, phase: str = "TEST", level: int = 0,
    stages: Sequence[str] = (), inputs: Mapping[str, Shape] | None = None, seed: int | None = None,
) -> Net:  # fmt: skip
    """Build a net with its weights.

    Raises:
        BridgeError: a file cannot be read or does not fit.
    """
    model = Net(load_spec(net, phase, level, stages, inputs), weights=weights, seed=seed)
    model.eval()
    return model
