"""Small nets in text for the tests of the layer-by-layer executor."""

from __future__ import annotations

from typing import Any

import numpy as np

from caffe_bridge.pycaffe import TEST, Net
from caffe_bridge.schema import parse_text


def data(name: str, *shape: int) -> str:
    dims = " ".join(f"dim: {d}" for d in shape)
    return (
        f"layer {{ name: '{name}' type: 'Input' top: '{name}' "
        f"input_param {{ shape {{ {dims} }} }} }}\n"
    )


def layer(kind: str, name: str, bottoms: str, tops: str, more: str = "") -> str:
    wires = " ".join(f"bottom: '{b}'" for b in bottoms.split())
    wires += " " + " ".join(f"top: '{t}'" for t in tops.split())
    return f"layer {{ name: '{name}' type: '{kind}' {wires} {more} }}\n"


def ip(name: str, bottom: str, outputs: int, more: str = "") -> str:
    param = f"inner_product_param {{ num_output: {outputs} weight_filler {{ type: 'xavier' }} }}"
    return layer("InnerProduct", name, bottom, name, f"{param} {more}")


#: x -> a -> ReLU in place -> loss against t.
CHAIN = (
    data("x", 2, 3)
    + data("t", 2, 4)
    + ip("a", "x", 4)
    + layer("ReLU", "r", "a", "a")
    + layer("EuclideanLoss", "loss", "a t", "loss")
)


def net(text: str, phase: int = TEST, seed: int = 1, **more: Any) -> Net:
    return Net(parse_text(text, "NetParameter", "n.prototxt"), phase, seed=seed, **more)


def fill(made: Net, seed: int = 2) -> Net:
    """Seeded normal values in all inputs."""
    rng = np.random.default_rng(seed)
    for name in made.inputs:
        made.blobs[name].data[...] = rng.standard_normal(made.blobs[name].shape)
    return made
