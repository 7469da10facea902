"""Writing nets in Python: ``layers as L``, ``params as P``, ``NetSpec``, ``to_proto``.

A call ``L.Convolution(bottom, kernel_size=3, num_output=8)`` makes a :class:`Function` and gives
its :class:`Top` (or a tuple of ``ntop`` of them). Nothing is computed: ``to_proto`` walks back from
tops to everything that they need and states it as a NetParameter.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from caffe_bridge.errors import GraphError, SchemaError
from caffe_bridge.pycaffe.proto import caffe_pb2


def _parameter_fields() -> dict[str, str]:
    """Layer type -> its own parameter message: ``Convolution`` -> ``convolution_param``."""
    return {
        field.message_type.name.removesuffix("Parameter"): field.name
        for field in caffe_pb2.LayerParameter.DESCRIPTOR.fields
        if field.name.endswith("_param") and field.message_type is not None
    }


_FIELDS = _parameter_fields()


def param_name_dict() -> dict[str, str]:
    """Layer type -> name of its parameter message without ``_param``: ``inner_product``."""
    return {kind: field.removesuffix("_param") for kind, field in _FIELDS.items()}


def assign_proto(message: Any, name: str, value: Any) -> None:
    """Set a field from plain Python: dicts fill messages, lists repeated fields.

    Raises:
        AttributeError: the message has no such field.
        SchemaError: the value does not fit the field.
    """
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        raise AttributeError(f"{message.DESCRIPTOR.name} has no field '{name}'")
    try:
        if hasattr(getattr(message, name), "extend"):
            values = list(value) if isinstance(value, list | tuple) else [value]
            for item in values:
                if isinstance(item, dict):
                    made = getattr(message, name).add()
                    for key, inner in item.items():
                        assign_proto(made, key, inner)
                else:
                    getattr(message, name).append(item)
        elif isinstance(value, dict):
            for key, inner in value.items():
                assign_proto(getattr(message, name), key, inner)
        elif field.message_type is not None:
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    except (TypeError, ValueError) as error:
        raise SchemaError(
            f"{message.DESCRIPTOR.name}.{name}: cannot hold {value!r} ({error})."
        ) from None


class Top:
    """One output of a function: top number ``n`` of ``fn``."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn, self.n = fn, n

    def to_proto(self) -> Any:
        """The NetParameter that computes this top, with automatic names."""
        return to_proto(self)


class _Naming:
    """Names given so far: explicit ones of a NetSpec, then ``Type1``, ``Type2``, ..."""

    def __init__(self, names: dict[Any, str]) -> None:
        self.names = names
        self.counts: dict[str, int] = defaultdict(int)

    def fresh(self, kind: str) -> str:
        self.counts[kind] += 1
        return f"{kind}{self.counts[kind]}"

    def top(self, top: Top) -> str:
        if top not in self.names:
            self.names[top] = self.fresh(top.fn.type_name)
        return self.names[top]

    def layer(self, fn: Function) -> str:
        if fn not in self.names:
            self.names[fn] = self.top(fn.tops[0]) if fn.tops else self.fresh(fn.type_name)
        return self.names[fn]


class Function:
    """One layer to be: type, bottoms and parameters.

    Raises:
        TypeError: a bottom that is no Top.
    """

    def __init__(self, type_name: str, inputs: tuple[Any, ...], params: dict[str, Any]) -> None:
        for position, bottom in enumerate(inputs):
            if not isinstance(bottom, Top):
                raise TypeError(
                    f"L.{type_name}: bottom {position} is {bottom!r}; bottoms are what other "
                    "layers returned, parameters are given by name."
                )
        self.type_name = type_name
        self.inputs = inputs
        self.params = dict(params)
        self.ntop = int(self.params.pop("ntop", 1))
        self.in_place = bool(self.params.pop("in_place", False))
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def state(self, layers: OrderedDict[Function, Any], naming: _Naming) -> None:
        """Add the LayerParameters of the bottoms, then the own one."""
        if self in layers:
            return
        for bottom in self.inputs:
            bottom.fn.state(layers, naming)
        layer = caffe_pb2.LayerParameter(type=self.type_name)
        layer.bottom.extend(layers[bottom.fn].top[bottom.n] for bottom in self.inputs)
        if self.in_place:
            layer.top.extend(layer.bottom)
        else:
            layer.top.extend(naming.top(top) for top in self.tops)
        layer.name = naming.layer(self)
        for name, value in self.params.items():
            self._assign(layer, name, value)
        layers[self] = layer

    def _assign(self, layer: Any, name: str, value: Any) -> None:
        own = _FIELDS.get(self.type_name)
        try:
            if not name.endswith("param") and own is not None:
                message = getattr(layer, own)
                if name in message.DESCRIPTOR.fields_by_name:
                    assign_proto(message, name, value)
                    return
            assign_proto(layer, name, value)
        except AttributeError as error:
            raise GraphError(
                f"L.{self.type_name}: {error}; nor has {own or 'it a parameter message of its own'}"
                f"{' one' if own else ''}. Correct the name, or write <message>_param=dict(...)."
            ) from None


def _net(items: Iterable[Any], naming: _Naming) -> Any:
    layers: OrderedDict[Function, Any] = OrderedDict()
    for fn in _functions(items):
        fn.state(layers, naming)
    net = caffe_pb2.NetParameter()
    net.layer.extend(layers.values())
    return net


def to_proto(*tops: Any) -> Any:
    """The NetParameter that computes the given tops, with automatic names.

    Args:
        tops: tops, tuples of them, or functions without tops.
    """
    return _net(tops, _Naming({}))


def _functions(items: Iterable[Any]) -> Iterator[Function]:
    for item in items:
        if isinstance(item, Function):
            yield item
        elif isinstance(item, Top):
            yield item.fn
        else:
            yield from _functions(item)


class NetSpec:
    """Tops by name: ``n.conv1 = L.Convolution(n.data, ...)``; ``str(n.to_proto())`` is prototxt.

    Names are those of tops; a layer is called as its first top. Layers without tops
    (``ntop=0``) are kept too.
    """

    def __init__(self) -> None:
        object.__setattr__(self, "tops", OrderedDict())

    tops: OrderedDict[str, Any]

    def __setattr__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "tops")[name]
        except KeyError:
            raise AttributeError(f"the NetSpec has no top '{name}'") from None

    def __setitem__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getitem__(self, name: str) -> Any:
        return self.tops[name]

    def __delitem__(self, name: str) -> None:
        del self.tops[name]

    def __delattr__(self, name: str) -> None:
        del self.tops[name]

    def __contains__(self, name: object) -> bool:
        return name in self.tops

    def to_proto(self) -> Any:
        """The NetParameter of all named tops and what they need."""
        naming = _Naming({top: name for name, top in self.tops.items()})
        return _net(self.tops.values(), naming)


class Layers:
    """``L``: any layer type as a function of bottoms and parameters.

    Every parameter of the type's own message can be given directly, others as
    ``<message>_param=dict(...)``; ``ntop`` is the number of tops, ``in_place=True`` writes the
    bottom. With ``ntop=0`` the function itself comes back.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def layer(*inputs: Any, **params: Any) -> Any:
            fn = Function(name, inputs, params)
            if fn.ntop == 0:
                return fn
            return fn.tops[0] if fn.ntop == 1 else fn.tops

        layer.__name__ = name
        return layer


class Parameters:
    """``P``: enum values of parameter messages, ``P.Pooling.MAX``."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(caffe_pb2, f"{name}Parameter")


layers = Layers()
params = Parameters()
