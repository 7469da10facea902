"""AlexNet's geometry (BVLC variant) without trained weights, for measurements of speed."""

from __future__ import annotations

from caffe_bridge.graph import NetSpec, parse_net

#: num_output, kernel, stride, pad, group of the convolutions; then what follows each.
_CONVOLUTIONS = {
    "conv1": (96, 11, 4, 0, 1, ("lrn", "pool")),
    "conv2": (256, 5, 1, 2, 2, ("lrn", "pool")),
    "conv3": (384, 3, 1, 1, 1, ()),
    "conv4": (384, 3, 1, 1, 2, ()),
    "conv5": (256, 3, 1, 1, 2, ("pool",)),
}
_FULLY_CONNECTED = {"fc6": 4096, "fc7": 4096, "fc8": 1000}
_SIZE = 227


def _layer(name: str, kind: str, bottom: str, top: str, param: str = "") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {param} }}'


def alexnet_text() -> str:
    """The deploy prototxt; layers are called as in BVLC's file, dropout is left out."""
    lines = [
        'name: "AlexNet"',
        'layer { name: "data" type: "Input" top: "data" input_param { shape { '
        f"dim: 1 dim: 3 dim: {_SIZE} dim: {_SIZE} }} }} }}",
    ]
    value = "data"
    for name, (outputs, kernel, stride, pad, group, after) in _CONVOLUTIONS.items():
        number = name[-1]
        param = (
            f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} stride: {stride} "
            f"pad: {pad} group: {group} }}"
        )
        lines.append(_layer(name, "Convolution", value, name, param))
        lines.append(_layer(f"relu{number}", "ReLU", name, name))
        value = name
        if "lrn" in after:
            param = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
            lines.append(_layer(f"norm{number}", "LRN", value, f"norm{number}", param))
            value = f"norm{number}"
        if "pool" in after:
            param = "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"
            lines.append(_layer(f"pool{number}", "Pooling", value, f"pool{number}", param))
            value = f"pool{number}"
    for name, outputs in _FULLY_CONNECTED.items():
        param = f"inner_product_param {{ num_output: {outputs} }}"
        lines.append(_layer(name, "InnerProduct", value, name, param))
        value = name
        if name != "fc8":
            lines.append(_layer(f"relu{name[-1]}", "ReLU", name, name))
    lines.append(_layer("prob", "Softmax", value, "prob"))
    return "\n".join(lines) + "\n"


def alexnet_spec() -> NetSpec:
    """The net in the TEST phase, batch 1."""
    return parse_net(alexnet_text(), "TEST", "AlexNet")
