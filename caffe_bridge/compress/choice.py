"""Per-layer wishes: what a config says about one layer, whoever wrote it.

A config maps layer names to a rank (as the reference's JSON files do), to a list of ranks for a
method with two, or to an object with ``method``, ``rank`` or ``energy``, and ``options``::

    {"conv1": {"method": "spatial", "rank": 8},
     "conv2": {"method": "tucker", "energy": 0.9},
     "conv3": 150}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from caffe_bridge.compress.decompose import Decomposition, Rank, decomposition
from caffe_bridge.compress.plan import parse_rank
from caffe_bridge.errors import PlanError

_KEYS = ("method", "rank", "energy", "options")


@dataclass(frozen=True)
class Choice:
    """A method and a rank, or the ratio by which the rank will be chosen."""

    method: Decomposition
    rank: Rank | None = None
    ratio: float | None = None
    options: dict[str, Any] = field(default_factory=dict)


def parse_choice(value: Any, default: Choice, where: str) -> Choice:
    """What a config says of one layer.

    Args:
        value: a rank, a list of ranks, or an object.
        default: method and options where the config names none.
        where: file and layer, for messages.

    Raises:
        PlanError: something else, or contradictory keys.
    """
    if not isinstance(value, Mapping):
        return Choice(default.method, parse_rank(value, where), None, default.options)
    for key in value:
        if key not in _KEYS:
            raise PlanError(f"{where}: unknown key '{key}'; known keys are {', '.join(_KEYS)}.")
    if ("rank" in value) == ("energy" in value):
        raise PlanError(f"{where}: give exactly one of 'rank' and 'energy'.")
    options = value.get("options", default.options if "method" not in value else {})
    if not isinstance(options, Mapping):
        raise PlanError(f"{where}: 'options' wants an object, found {json.dumps(options)}.")
    name = value.get("method", default.method.name)
    if not isinstance(name, str):
        raise PlanError(f"{where}: 'method' wants a text, found {json.dumps(name)}.")
    method = decomposition(name, options, where)
    if "rank" in value:
        return Choice(method, parse_rank(value["rank"], where), None, dict(options))
    ratio = value["energy"]
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)):
        raise PlanError(f"{where}: 'energy' wants a number, found {json.dumps(ratio)}.")
    return Choice(method, None, float(ratio), dict(options))


def plain(value: Any) -> Any:
    """A wish as JSON holds it, whatever integers and sequences it came in."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value
