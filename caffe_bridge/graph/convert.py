"""From records to net specs and back."""

from __future__ import annotations

import os
from dataclasses import replace

from caffe_bridge.graph.fused import split_rectifiers
from caffe_bridge.graph.phase import keeps
from caffe_bridge.graph.spec import LayerSpec, NetSpec, NetState, ParamSpec
from caffe_bridge.schema import Record, parse_text, read_text, upgrade_net


def _param(record: Record) -> ParamSpec:
    def given(name: str) -> float | None:
        return float(getattr(record, name)) if record.has(name) else None

    return ParamSpec(
        name=record.name,
        lr_mult=given("lr_mult"),
        decay_mult=given("decay_mult"),
        force_mult=given("force_mult"),
        permissive=record.share_mode == "PERMISSIVE",
    )


def layer_spec(record: Record) -> LayerSpec:
    """The spec of one LayerParameter."""
    return LayerSpec(
        name=record.name,
        type=record.type,
        bottoms=tuple(record.bottom),
        tops=tuple(record.top),
        params=tuple(_param(p) for p in record.param),
        loss_weights=tuple(record.loss_weight),
        propagate_down=tuple(record.propagate_down),
        record=record,
    )


def merge_state(record: Record, phase: str, level: int | None, stages: tuple[str, ...]) -> NetState:
    """The caller's state over the net's own ``state`` field, as Net's constructor does.

    An empty phase or a level of None leaves the net's own; stages are added to its own.
    """
    own = record.state
    return NetState(
        phase=phase or (own.phase if own.has("phase") else "TEST"),
        level=own.level if level is None else level,
        stages=tuple(dict.fromkeys((*own.stage, *stages))),
    )


def net_spec(record: Record, state: NetState) -> NetSpec:
    """Filter a current-format NetParameter for a state; fused rectifiers become layers.

    Raises:
        GraphError: contradictory rules.
    """
    kept = Record("NetParameter")
    for field, value in record.items():
        if field.name != "layer":
            setattr(kept, field.name, value)
    kept.unknown, kept.raw_unknown = list(record.unknown), list(record.raw_unknown)
    kept.origin, kept.line = record.origin, record.line
    kept.layer = split_rectifiers([layer for layer in record.layer if keeps(state, layer)])
    return NetSpec(
        name=record.name,
        layers=tuple(layer_spec(layer) for layer in kept.layer),
        state=state,
        force_backward=record.force_backward,
        source=record.origin,
        record=kept,
    )


def read_net(path: str | os.PathLike[str]) -> Record:
    """Read a net prototxt of any age and bring it to the current format.

    Raises:
        SchemaError: missing file, syntax error, or a construct without modern equivalent.
    """
    return upgrade_net(read_text(path, "NetParameter"))


def load_net(
    net: str | os.PathLike[str] | Record,
    phase: str = "TEST",
    level: int | None = None,
    stages: tuple[str, ...] = (),
) -> NetSpec:
    """Read (if a path) and filter a net for a phase, level and stages.

    Raises:
        BridgeError: see :func:`read_net` and :func:`net_spec`.
    """
    record = net if isinstance(net, Record) else read_net(net)
    return net_spec(record, merge_state(record, phase, level, stages))


def parse_net(text: str, phase: str = "TEST", source: str = "<text>") -> NetSpec:
    """The net spec of prototxt text."""
    record = upgrade_net(parse_text(text, "NetParameter", source))
    return net_spec(record, merge_state(record, phase, None, ()))


def net_record(spec: NetSpec) -> Record:
    """The NetParameter of a spec, ready to be written."""
    record = spec.record.copy()
    record.layer = [layer.record for layer in spec.layers]
    return record


def with_tops(layer: LayerSpec, tops: tuple[str, ...]) -> LayerSpec:
    """The layer with other tops, in its record too."""
    record = layer.record.copy()
    record.top = list(tops)
    return replace(layer, tops=tops, record=record)
