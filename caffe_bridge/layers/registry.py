"""All layer types by name."""

from __future__ import annotations

from collections.abc import Callable

from caffe_bridge.errors import UnknownLayerError
from caffe_bridge.graph import LayerSpec
from caffe_bridge.layers.base import Layer
from caffe_bridge.registry import Registry

LAYERS: Registry[type[Layer]] = Registry(
    "layer type", "caffe_bridge.layers", "caffe_bridge.layers", UnknownLayerError
)


def register(*names: str) -> Callable[[type[Layer]], type[Layer]]:
    """Class decorator: enter a layer class under its type names; the first is canonical."""
    enter = LAYERS.register(*names)

    def decorate(cls: type[Layer]) -> type[Layer]:
        cls.type_name = names[0]
        return enter(cls)

    return decorate


def layer_class(spec: LayerSpec) -> type[Layer]:
    """The class for a layer's type.

    Raises:
        UnknownLayerError: no such type; names near matches and how to plug one in.
    """
    if spec.type in LAYERS:
        return LAYERS.get(spec.type).resolve(spec)
    near = LAYERS.closest(spec.type)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UnknownLayerError(
        f"{spec.label()}: layer type '{spec.type}' is not known.{hint} A package can add it "
        "through the entry-point group 'caffe_bridge.layers' (see docs/adding_a_layer.md)."
    )
