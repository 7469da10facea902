"""The compression plan: which layer becomes what, as JSON that a person can read and edit.

::

    {
      "schema_version": 1,
      "net": "train_test.prototxt",
      "weights": "iter_60000.caffemodel",
      "settings": {"method": "pca", "energy": 0.95, ...},
      "layers": [
        {"layer": "conv2", "method": "pca", "rank": 26, "energy": 0.954, "error": 0.214,
         "theoretical_speedup": 1.18, "reason": "keeps 0.95 of the energy"},
        {"layer": "ip1", "method": "whole", "reason": "fully connected"}
      ]
    }

A method with two ranks (tucker) has a list there: ``"rank": [24, 32]``, input side first.

Only ``layers`` with ``layer``, ``method`` and ``rank`` are needed to rewrite a net; the rest tells
how the plan came about. Whatever chooses ranks only writes such a plan.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

from caffe_bridge.compress.decompose import DECOMPOSITIONS, Rank, decomposition
from caffe_bridge.errors import PlanError
from caffe_bridge.files import atomic_write, require_file

SCHEMA_VERSION = 1
#: The method of a layer that stays as it is.
WHOLE = "whole"
_NUMBERS = ("energy", "error", "theoretical_speedup", "ms_before", "ms_after")


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer.

    Args:
        layer: name of the layer.
        method: a decomposition, or "whole" for a layer that stays.
        rank: total over the groups; for a method with several the ranks in its order, in JSON a
            list; 0 for a layer that stays.
        energy: share of the weight's squared norm that the rank keeps.
        error: relative error of the weight, ``sqrt(1 - energy)``.
        theoretical_speedup: multiply-accumulates before over after. Not a time.
        ms_before: measured milliseconds of the layer, in a plan made by time.
        ms_after: measured milliseconds of what becomes of it.
        reason: why, for the reader.
        options: options of the method.
    """

    layer: str
    method: str
    rank: Rank = 0
    energy: float | None = None
    error: float | None = None
    theoretical_speedup: float | None = None
    reason: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    ms_before: float | None = None
    ms_after: float | None = None

    @property
    def whole(self) -> bool:
        """Whether the layer stays as it is."""
        return self.method == WHOLE


@dataclass
class Plan:
    """A plan for one net. ``source`` is the file that it was read from, for messages."""

    layers: list[LayerPlan]
    net: str = ""
    weights: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = field(default="plan", compare=False)

    def decomposed(self) -> list[LayerPlan]:
        """Entries of layers that are replaced."""
        return [entry for entry in self.layers if not entry.whole]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the plan as JSON, whole or not at all."""
        with atomic_write(path) as stream:
            stream.write(self.to_json().encode("utf-8"))
        return Path(path)

    def to_json(self) -> str:
        """The plan as JSON text, one line for each layer."""
        head = {
            "schema_version": SCHEMA_VERSION,
            "net": self.net,
            "weights": self.weights,
            "settings": self.settings,
        }
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        entries = ",\n".join(f"    {json.dumps(_as_dict(entry))}" for entry in self.layers)
        lines.append(f'  "layers": [\n{entries}\n  ]' if entries else '  "layers": []')
        return "{\n" + ",\n".join(lines) + "\n}\n"


def _as_dict(entry: LayerPlan) -> dict[str, Any]:
    result: dict[str, Any] = {"layer": entry.layer, "method": entry.method}
    if not entry.whole:
        result["rank"] = entry.rank if isinstance(entry.rank, int) else list(entry.rank)
    for name in _NUMBERS:
        if getattr(entry, name) is not None:
            result[name] = getattr(entry, name)
    if entry.reason:
        result["reason"] = entry.reason
    if entry.options:
        result["options"] = entry.options
    return result


def _typed(data: dict[str, Any], name: str, kind: type, default: Any, where: str) -> Any:
    value = data.get(name, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = {str: "a text", int: "an integer", dict: "an object", list: "a list"}[kind]
        raise PlanError(f"{where}: '{name}' wants {wanted}, found {json.dumps(value)}.")
    return value


def _refuse_unknown(data: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in data:
        if name not in known:
            raise PlanError(f"{where}: unknown key '{name}'; known keys are {', '.join(known)}.")


def _number(data: dict[str, Any], name: str, where: str) -> float | None:
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PlanError(f"{where}: '{name}' wants a number, found {json.dumps(value)}.")
    return float(value)


def _entry(data: Any, source: str, index: int) -> LayerPlan:
    where = f"{source}: layers[{index}]"
    if not isinstance(data, dict):
        raise PlanError(f"{where}: wants an object, found {json.dumps(data)[:60]}.")
    layer = _typed(data, "layer", str, "", where)
    if not layer:
        raise PlanError(f"{where}: has no 'layer'; name the layer that it is about.")
    where = f"{where} ({layer})"
    _refuse_unknown(data, ("layer", "method", "rank", *_NUMBERS, "reason", "options"), where)
    method = _typed(data, "method", str, "", where)
    options = _typed(data, "options", dict, {}, where)
    if not method:
        raise PlanError(
            f"{where}: has no 'method'; give {WHOLE} or one of {', '.join(DECOMPOSITIONS.names())}."
        )
    if method == WHOLE:
        if data.get("rank") or options:
            raise PlanError(
                f"{where}: method '{WHOLE}' keeps the layer, but a rank or options are given; "
                "remove them or name a decomposition."
            )
        rank: Rank = 0
    else:
        made = decomposition(method, options, where)
        rank = parse_rank(data.get("rank"), where)
        if isinstance(rank, tuple) and len(rank) != len(made.rank_names):
            raise PlanError(
                f"{where}: {len(rank)} ranks are given, {method} has {len(made.rank_names)} "
                f"({', '.join(made.rank_names)})."
            )
    numbers = {name: _number(data, name, where) for name in _NUMBERS}
    reason = _typed(data, "reason", str, "", where)
    return LayerPlan(layer, method, rank, reason=reason, options=options, **numbers)


def parse_rank(value: Any, where: str) -> Rank:
    """A rank from JSON: a positive integer, or a list of them.

    Raises:
        PlanError: anything else.
    """
    parts = value if isinstance(value, (list, tuple)) else [value]
    if not parts or any(isinstance(r, bool) or not isinstance(r, Integral) or r < 1 for r in parts):
        raise PlanError(
            f"{where}: rank is {json.dumps(value, default=repr)}; give a positive integer."
        )
    return tuple(int(r) for r in parts) if parts is value else int(value)


def check_unique(layers: list[LayerPlan], source: str) -> None:
    """Refuse two entries for one layer.

    Raises:
        PlanError: a layer is listed twice.
    """
    seen: dict[str, int] = {}
    for index, entry in enumerate(layers):
        if entry.layer in seen:
            raise PlanError(
                f"{source}: layers[{index}] ({entry.layer}) repeats layers[{seen[entry.layer]}]; "
                "keep one of them."
            )
        seen[entry.layer] = index


def parse_plan(text: str, source: str = "plan") -> Plan:
    """Read a plan from JSON text.

    Raises:
        PlanError: not JSON, or an entry that is wrong; names the source and the entry.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise PlanError(
            f"{source}:{error.lineno}:{error.colno}: is not JSON ({error.msg})."
        ) from error
    if not isinstance(data, dict) or "layers" not in data:
        raise PlanError(f"{source}: is no plan; it wants an object with a list 'layers'.")
    _refuse_unknown(data, ("schema_version", "net", "weights", "settings", "layers"), source)
    version = _typed(data, "schema_version", int, SCHEMA_VERSION, source)
    if version != SCHEMA_VERSION:
        raise PlanError(
            f"{source}: schema_version is {version}, this version reads {SCHEMA_VERSION}; make the "
            "plan again."
        )
    layers = [
        _entry(item, source, index)
        for index, item in enumerate(_typed(data, "layers", list, [], source))
    ]
    check_unique(layers, source)
    return Plan(
        layers=layers,
        net=_typed(data, "net", str, "", source),
        weights=_typed(data, "weights", str, "", source),
        settings=_typed(data, "settings", dict, {}, source),
        source=source,
    )


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan file.

    Raises:
        SchemaError: the file is missing or empty.
        PlanError: see :func:`parse_plan`.
    """
    data = require_file(path, "plan").read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: is a binary file, expected a JSON plan.") from error
    return parse_plan(text, str(path))
