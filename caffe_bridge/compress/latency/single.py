"""One layer, or the layers that replace it, as a net of its own.

The net has the shape that the layer really reads and goes through the package's own export. Its
weights are small random numbers, because time does not depend on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from caffe_bridge.compress.latency.forms import Form
from caffe_bridge.compress.target import Target
from caffe_bridge.graph import Shape, load_net
from caffe_bridge.net import Net
from caffe_bridge.schema import Record


def layer_key(target: Target, shape: Shape) -> str:
    """Everything about a layer that its time depends on."""
    size = "x".join(map(str, shape))
    head = f"{target.type} {size} n{target.num_output} bias{int(target.bias is not None)}"
    if target.is_fc:
        transposed = int(bool(target.record.inner_product_param.transpose))
        return f"{head} k{target.inputs} t{transposed}"
    window = target.window
    parts = zip("kspd", (window.kernel, window.stride, window.pad, window.dilation), strict=True)
    sizes = " ".join(letter + "x".join(map(str, values)) for letter, values in parts)
    return f"{head} {sizes} g{target.group}"


def fill_small(net: Net, names: Sequence[str] | None = None) -> None:
    """Give weights uniform values of the scale that keeps activations alike; in place.

    Args:
        net: the net.
        names: layers to fill; all when None.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in net.built.layers:
            if names is not None and layer.name not in names:
                continue
            for blob in layer.blobs:
                if blob.dim() > 1:
                    bound = math.sqrt(3.0 / max(blob[0].numel(), 1))
                    blob.uniform_(-bound, bound, generator=generator)


def single_net(target: Target, form: Form | None, shape: Shape) -> Net:
    """A net of the layer alone (``form`` None) or of its form, on an input of that shape."""
    layer = target.record.copy()
    layer.clear("include")
    layer.clear("exclude")
    layer.clear("loss_weight")
    layer.bottom, layer.top = ["data"], ["out"]
    entry = Record("LayerParameter", name="data", type="Input", top=["data"])
    entry.mutable("input_param").add("shape").dim = [int(size) for size in shape]
    record = Record("NetParameter", name=target.name)
    made = [layer] if form is None else form.method.records(layer, form.rank)
    record.layer = [entry, *made]
    net = Net(load_net(record), weights=None, seed=0)
    fill_small(net)
    return net.eval()
