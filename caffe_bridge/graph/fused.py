"""Rectifiers that Intel's Caffe keeps inside the layer before them."""

from __future__ import annotations

from caffe_bridge.schema import Record

#: Layers whose parameters may hold ``relu`` and ``negative_slope``, and where they lie.
_PARAMS = {
    "Convolution": "convolution_param",
    "Deconvolution": "convolution_param",
    "InnerProduct": "inner_product_param",
}


def split_rectifiers(layers: list[Record]) -> list[Record]:
    """The layers, each fused rectifier as the ReLU layer in place that other Caffes would have.

    Intel's Caffe sets ``relu: true`` where its graph compiler has merged a ReLU into a layer; the
    ReLU layer itself is then gone from the net.
    """
    taken = {layer.name for layer in layers}
    made = []
    for layer in layers:
        field = _PARAMS.get(layer.type, "")
        if not field or not getattr(layer, field).relu:
            made.append(layer)
            continue
        plain = layer.copy()
        param = getattr(plain, field)
        slope = param.negative_slope
        param.clear("relu")
        param.clear("negative_slope")
        plain.clear("loss_weight")
        made.append(plain)
        for index, top in enumerate(layer.top):
            name = f"{layer.name}_relu"
            while name in taken:
                name += "_"
            taken.add(name)
            relu = Record("LayerParameter", name=name, type="ReLU", bottom=[top], top=[top])
            if slope:
                relu.relu_param = Record("ReLUParameter", negative_slope=slope)
            # What counts towards the loss is the rectified top.
            relu.loss_weight = list(layer.loss_weight)[index : index + 1]
            relu.origin, relu.line = layer.origin, layer.line
            made.append(relu)
    return made
