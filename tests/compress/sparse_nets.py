"""Small nets with chosen filters set to zero, for the tests of sparsity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from caffe_bridge.compress.sparse.shrink import Shrunk, shrink
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.schema import Record, StoredBlob, Weights, parse_text

INPUT = (
    'layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: {c} '
    "dim: 9 dim: 9 }} }} }}\n"
)


def head(channels: int = 4) -> str:
    """An Input layer x (2, channels, 9, 9)."""
    return INPUT.format(c=channels)


def conv(name: str, bottom: str, num: int, more: str = "kernel_size: 3", pad: int = 0) -> str:
    """A convolution with random weights and biases."""
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        f"convolution_param {{ num_output: {num} {more} pad: {pad} "
        'weight_filler { type: "gaussian" std: 0.3 } '
        'bias_filler { type: "uniform" min: -1 max: 1 } } }\n'
    )


def fc(name: str, bottom: str, num: int, more: str = "") -> str:
    """A fully connected layer with random weights and biases."""
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
        f'inner_product_param {{ num_output: {num} {more} weight_filler {{ type: "xavier" }} '
        'bias_filler { type: "uniform" min: -1 max: 1 } } }\n'
    )


def layer(name: str, kind: str, bottoms: str, more: str = "", top: str = "") -> str:
    """Any layer; bottoms separated by blanks."""
    bottom = " ".join(f'bottom: "{b}"' for b in bottoms.split())
    tops = " ".join(f'top: "{t}"' for t in (top or name).split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottom} {tops} {more} }}\n'


def masked(
    text: str, dead: Mapping[str, Sequence[int]] | None = None, bias: bool = True, seed: int = 0
) -> tuple[Record, Weights]:
    """A net with random blobs, the filters ``dead`` of its layers zero; their bias as well
    unless ``bias``."""
    net = Net(parse_net(text), seed=seed)
    rng = np.random.default_rng(seed)
    stored: dict[str, list[StoredBlob | None]] = {}
    with torch.no_grad():
        for made in net.built.layers:
            kind = made.spec.type
            for index, blob in enumerate(made.blobs):
                if kind in ("BatchNorm", "Scale", "PReLU", "Bias"):
                    values = rng.uniform(0.5, 1.5, tuple(blob.shape))
                    blob.copy_(torch.from_numpy(np.asarray(values)))
                gone = (dead or {}).get(made.name)
                if gone is None or (index and bias):
                    continue
                if kind == "InnerProduct" and made.p.transpose and not index:
                    blob[:, list(gone)] = 0
                else:
                    blob[list(gone)] = 0
            if len(made.blobs):
                arrays = [b.detach().numpy().copy() for b in made.blobs]
                stored[made.name] = [StoredBlob(a.shape, False, a) for a in arrays]
    return parse_text(text, "NetParameter", "net.prototxt"), Weights("net.caffemodel", stored)


def shrunk(
    text: str, dead: Mapping[str, Sequence[int]] | None = None, bias: bool = True
) -> tuple[Shrunk, dict[str, tuple[int, int]]]:
    """The smaller net, which was compared with the masked one, and filters and inputs left."""
    made = shrink(*masked(text, dead, bias))
    assert made.worst < 1e-5
    return made, {row.layer: (row.filters[1], row.inputs[1]) for row in made.layers}
