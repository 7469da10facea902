"""Which layers a phase, level and set of stages keep (Caffe's Net::FilterNet)."""

from __future__ import annotations

from caffe_bridge.errors import GraphError
from caffe_bridge.graph.spec import NetState
from caffe_bridge.schema import Record


def meets(state: NetState, rule: Record) -> bool:
    """Whether the state satisfies every condition of one NetStateRule."""
    if rule.has("phase") and rule.phase != state.phase:
        return False
    if rule.has("min_level") and state.level < rule.min_level:
        return False
    if rule.has("max_level") and state.level > rule.max_level:
        return False
    if any(stage not in state.stages for stage in rule.stage):
        return False
    return all(stage not in state.stages for stage in rule.not_stage)


def keeps(state: NetState, layer: Record) -> bool:
    """Whether a layer belongs to the net in this state.

    Raises:
        GraphError: the layer has both include and exclude rules.
    """
    if layer.include and layer.exclude:
        raise GraphError(
            f"{layer.name} ({layer.type}) at {layer.where()}: has both include and exclude rules; "
            "keep one kind."
        )
    if layer.include:
        return any(meets(state, rule) for rule in layer.include)
    return not any(meets(state, rule) for rule in layer.exclude)
