"""Parameter sharing: which learnable blobs are one (Caffe's Net::AppendParam)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from caffe_bridge.errors import GraphError, ShapeError
from caffe_bridge.graph.spec import LayerSpec, ParamSpec, Shape

_MULTS = ("lr_mult", "decay_mult", "force_mult")


@dataclass
class Slot:
    """One learnable blob of one layer.

    ``owner`` is the index (in the list of slots) of the slot whose values it uses, its own index
    when it shares nobody's. Multipliers count at the owner.
    """

    layer: int
    index: int
    name: str
    owner: int
    lr_mult: float | None
    decay_mult: float | None
    force_mult: float | None


def share(layers: Sequence[LayerSpec], shapes: Sequence[Sequence[Shape]]) -> list[Slot]:
    """The slots of a net, in the order of Caffe's ``params``.

    Args:
        layers: the net's layers.
        shapes: the shapes of each layer's learnable blobs.

    Raises:
        GraphError: more ParamSpecs than blobs, or contradictory multipliers.
        ShapeError: shared blobs of different shape.
    """
    slots: list[Slot] = []
    owners: dict[str, int] = {}
    for number, (layer, blobs) in enumerate(zip(layers, shapes, strict=True)):
        if len(layer.params) > len(blobs):
            raise GraphError(
                f"{layer.label()}: has {len(layer.params)} param blocks but only {len(blobs)} "
                "learnable blobs; remove the extra blocks."
            )
        for index in range(len(blobs)):
            param = layer.params[index] if index < len(layer.params) else ParamSpec()
            slot = Slot(number, index, param.name, len(slots), param.lr_mult, param.decay_mult,
                        param.force_mult)  # fmt: skip
            if param.name and param.name in owners:
                owner = slots[owners[param.name]]
                slot.owner = owners[param.name]
                _check_shape(layers, shapes, owner, slot, param)
                _merge(layers, owner, slot)
            elif param.name:
                owners[param.name] = len(slots)
            slots.append(slot)
    return slots


def _check_shape(
    layers: Sequence[LayerSpec],
    shapes: Sequence[Sequence[Shape]],
    owner: Slot,
    slot: Slot,
    param: ParamSpec,
) -> None:
    mine, theirs = shapes[slot.layer][slot.index], shapes[owner.layer][owner.index]
    equal = math.prod(mine) == math.prod(theirs) if param.permissive else mine == theirs
    if not equal:
        raise ShapeError(
            f"{layers[slot.layer].label()}: shares '{slot.name}' with "
            f"{layers[owner.layer].label()}, but their blobs have shapes {mine} and {theirs}; "
            f"make them equal"
            f"{'' if param.permissive else ' or use share_mode: PERMISSIVE'}."
        )


def _merge(layers: Sequence[LayerSpec], owner: Slot, slot: Slot) -> None:
    for name in _MULTS:
        mine, theirs = getattr(slot, name), getattr(owner, name)
        if mine is None:
            continue
        if theirs is None:
            setattr(owner, name, mine)
        elif mine != theirs:
            raise GraphError(
                f"{layers[slot.layer].label()}: {name} {mine} of the shared '{slot.name}' differs "
                f"from {theirs} in {layers[owner.layer].label()}; give it once or make them equal."
            )
