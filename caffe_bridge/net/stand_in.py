"""Shapes for data layers whose source is not there, so that the rest of the net can be examined.

A batch has the size that the layer states. An image has the size of its crop or resize; without
one, a size named in the source ("112x96"), that of the data set it is named after, or 224 x 224.
Labels are one number an item, or whatever shape the loss that reads them needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from caffe_bridge.errors import BackendError, BridgeError, DataError, UnsupportedDataError
from caffe_bridge.graph import Graph, LayerSpec, NetSpec, Node, Shape
from caffe_bridge.layers.registry import layer_class
from caffe_bridge.schema import Record

#: Word in the source's or net's name -> channels, height and width of its images.
_DATA_SETS: dict[str, Shape] = {
    "mnist": (1, 28, 28), "cifar": (3, 32, 32), "imagenet": (3, 256, 256), "ilsvrc": (3, 256, 256),
}  # fmt: skip
_USUAL: Shape = (3, 224, 224)
#: Tops of Faster R-CNN's data layers.
_NAMED: dict[str, Shape] = {
    "im_info": (1, 3), "gt_boxes": (1, 5), "rois": (128, 5), "labels": (128,),
}  # fmt: skip
_BOX_TOP = re.compile(r"bbox_(targets|(inside|outside|loss)_weights)$")
_CLASSES = re.compile(r"num_classes\W+(\d+)")
_DETECTION_IMAGE: Shape = (1, 3, 600, 1000)
_FEATURES = 64
#: Layers that take images only.
_IMAGE_READERS = ("Convolution", "Deconvolution", "Pooling", "LRN", "Im2col", "SPP", "Crop")
_LABEL = re.compile(r"label|target|class|gender|age|clip|weight|sim\b", re.IGNORECASE)
_SIZE = re.compile(r"(?<!\d)(\d{2,4})[xX](\d{2,4})(?!\d)")


@dataclass
class StandIn:
    """What stands for a data layer: the shapes of its tops, and why it is not used itself.

    ``supported`` is False when not the source is missing but the layer itself is unknown, wrong, or
    asks for something that is not supported. A Python layer's source is code that is not run.
    """

    shapes: list[Shape]
    reason: str
    supported: bool


def find(spec: NetSpec) -> dict[int, StandIn]:
    """Stand-ins by the layer's position, for every data layer that cannot be made."""
    found = {}
    for index, layer in enumerate(spec.layers):
        if layer.bottoms or not layer.tops:
            continue
        problem = _problem(layer, spec.state.phase)
        if problem is not None:
            supported = layer.type == "Python" or (
                isinstance(problem, DataError | BackendError | OSError)
                and not isinstance(problem, UnsupportedDataError)
            )
            shapes = [_guess(spec, layer, position) for position in range(len(layer.tops))]
            found[index] = StandIn(shapes, str(problem), supported)
    return found


def _problem(layer: LayerSpec, phase: str) -> Exception | None:
    """Why a layer without bottoms cannot deliver; None for one that can."""
    try:
        cls = layer_class(layer)
        if not cls.has_source and layer.type != "Python":
            return None
        made = cls(layer, phase)
    except (BridgeError, OSError) as error:
        return error
    source = getattr(made, "source", None)
    if source is not None:
        source.close()
    return None


def _parameters(layer: LayerSpec) -> Iterable[Record]:
    return (value for _, value in layer.record.items() if isinstance(value, Record))


def _stated(layer: LayerSpec, names: Iterable[str]) -> int:
    """The first of these fields that any parameter message gives, else 0."""
    for name in names:
        for message in _parameters(layer):
            if message.has_field(name) and message.has(name):
                return int(getattr(message, name))
    return 0


def _texts(layer: LayerSpec) -> list[str]:
    """Where a hint may stand: sources, mean files, folders."""
    names = ("source", "mean_file", "root_folder")
    return [
        str(getattr(message, name))
        for message in _parameters(layer)
        for name in names
        if message.has_field(name) and message.has(name)
    ]


def _image(spec: NetSpec, layer: LayerSpec) -> Shape:
    hints = " ".join([*_texts(layer), spec.name])
    words = hints.lower() if any(word in hints.lower() for word in _DATA_SETS) else (
        "/".join(spec.source.split("/")[-2:]).lower()
    )  # fmt: skip
    known = next((shape for word, shape in _DATA_SETS.items() if word in words), _USUAL)
    channels, height, width = known
    if _stated(layer, ["force_gray"]) or _grey(layer):
        channels = 1
    elif len(layer.record.transform_param.mean_value) == 3 or _stated(layer, ["force_color"]):
        channels = 3
    side = _SIZE.search(hints)
    if side is not None:
        height, width = int(side.group(1)), int(side.group(2))
    resize = layer.record.transform_param.resize_param
    if resize and resize[0].height and resize[0].width:
        height, width = int(resize[0].height), int(resize[0].width)
    square = ["crop_size", "new_dim"]
    height = _stated(layer, ["crop_h", "crop_height", *square, "new_height"]) or height
    width = _stated(layer, ["crop_w", "crop_width", *square, "new_width"]) or width
    return (channels, height, width)


def _grey(layer: LayerSpec) -> bool:
    p = layer.record.image_data_param
    return bool(p.has("is_color") and not p.is_color)


def _readers(spec: NetSpec, layer: LayerSpec, top: str) -> list[LayerSpec]:
    return [other for other in spec.layers if top in other.bottoms and other is not layer]


def _guess(spec: NetSpec, layer: LayerSpec, position: int) -> Shape:
    top, batch = layer.tops[position], max(1, _stated(layer, ["batch_size"]))
    if layer.type == "Python":
        classes = _CLASSES.search(str(layer.record.python_param.param_str))
        if classes and _BOX_TOP.match(top):
            return (*_NAMED["labels"], 4 * int(classes.group(1)))
        if top in _NAMED:
            return _NAMED[top]
    readers = {reader.type for reader in _readers(spec, layer, top)}
    image = _DETECTION_IMAGE if layer.type == "Python" else (batch, *_image(spec, layer))
    if readers & set(_IMAGE_READERS):
        return image
    if layer.type == "AnnotatedData" and position:
        return (1, 1, batch, 8)
    if position or _LABEL.search(top):
        return (batch,)
    return image if layer.type != "HDF5Data" else (batch, _FEATURES)


def fit(graph: Graph, phase: str, stand_ins: Mapping[int, StandIn]) -> None:
    """Change guessed shapes of tops so that the layers that read them accept them."""
    for _ in range(4 * sum(len(s.shapes) for s in stand_ins.values())):
        if not _improve(graph, phase, stand_ins):
            return


def _improve(graph: Graph, phase: str, stand_ins: Mapping[int, StandIn]) -> bool:
    """Walk to the first layer that refuses a guess; whether another guess suits it."""
    shapes: dict[int, Shape] = {}
    for node in graph.nodes:
        if node.index in stand_ins:
            for value, shape in zip(node.outputs, stand_ins[node.index].shapes, strict=False):
                shapes[value.index] = shape
        elif all(value.index in shapes for value in node.inputs):
            bottoms = [shapes[value.index] for value in node.inputs]
            made = _infer(node, phase, bottoms)
            if made is not None:
                shapes.update((v.index, s) for v, s in zip(node.outputs, made, strict=False))
            elif _suit(node, phase, bottoms, stand_ins):
                return True
    return False


def _infer(node: Node, phase: str, bottoms: Sequence[Shape]) -> list[Shape] | None:
    try:
        layer = layer_class(node.layer)(node.layer, phase)
        made = [tuple(shape) for shape in layer.infer(bottoms)]
        layer.blob_specs(bottoms)
    except Exception:
        return None
    return made


def _suit(
    node: Node, phase: str, bottoms: list[Shape], stand_ins: Mapping[int, StandIn]
) -> bool:  # fmt: skip
    guessed = [i for i, value in enumerate(node.inputs) if value.producer in stand_ins]
    for fixed in (shape for i, shape in enumerate(bottoms) if i not in guessed):
        tried = [fixed if i in guessed else shape for i, shape in enumerate(bottoms)]
        if tried != bottoms and _infer(node, phase, tried) is not None:
            for value in (node.inputs[i] for i in guessed):
                stand_ins[value.producer].shapes[value.top_index] = fixed
            return True
    for position, value in enumerate(node.inputs):
        if value.producer not in stand_ins:
            continue
        for shape in _alternatives(node.layer, bottoms, position):
            tried = [*bottoms[:position], shape, *bottoms[position + 1 :]]
            if shape != bottoms[position] and _infer(node, phase, tried) is not None:
                stand_ins[value.producer].shapes[value.top_index] = shape
                return True
    return False


def _alternatives(layer: LayerSpec, bottoms: Sequence[Shape], position: int) -> Iterable[Shape]:
    own = bottoms[position]
    if layer.type == "Slice" and len(own) > 1:
        points = list(layer.record.slice_param.slice_point)
        last = points[-1] + points[-1] - (points[-2] if len(points) > 1 else 0) if points else 0
        yield (own[0], last or own[1] * len(layer.tops), *own[2:])
    for other in (shape for i, shape in enumerate(bottoms) if i != position and shape):
        batch = other[0]
        yield from (other, (batch,), (batch, 1), (batch, 1, 1, 1), other[:2])
        yield from ((batch, 1, *other[2:]), (batch, *other[2:]))
    batch = own[0] if own else 1
    yield from ((batch, *_USUAL), (batch, _FEATURES), (batch, 1))
