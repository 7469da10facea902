"""Which channels of a net can go without changing what it computes.

Every channel counts as removable at first, and each layer takes back what it needs, until nothing
changes; what is left is the largest set that all layers allow:

    output, wall    nothing goes
    filters         an input channel goes if no filter that stays uses it, or if it is constant and
                    its share can be folded into the bias (0 always, another number without
                    padding); groups go whole, those that stay keep equally many channels
    same            a channel goes in all bottoms and tops or in none
    join, cut       the same along the parts; each part of a cut keeps a channel
    spread          a channel goes if all its entries do

Each layer with filters keeps at least one of them, and one input channel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from caffe_bridge.compress.sparse.roles import (
    CUT,
    FILTERS,
    JOIN,
    SAME,
    SINK,
    SPREAD,
    Bank,
    Role,
    constants_of,
)
from caffe_bridge.graph import Node
from caffe_bridge.net import Net


class Removable:
    """The removable channels of a TEST net.

    Args:
        net: the net with its (pruned) weights.
        roles: the role of each of its nodes.
        pinned: blobs that keep all channels, with the reason.

    Attributes:
        free: for each value of the graph which channels go, (C,) bool.
        constants: for each value what a channel always holds, (C,), NaN where it varies.
        why: for each value why a channel stays, (C,) of str.
    """

    def __init__(self, net: Net, roles: list[Role], pinned: dict[str, str]) -> None:
        self.net, self.roles = net, roles
        self.constants = constants_of(net, roles)
        self.free = [np.ones(len(c), bool) for c in self.constants]
        self.why = [np.full(len(c), "", object) for c in self.constants]
        for value in net.built.graph.outputs:
            self._keep(value.index, True, f"'{value.blob}' is an output of the net")
        for value in net.built.graph.values:
            if value.blob in pinned:
                self._keep(value.index, True, pinned[value.blob])
        self.changed = True
        while self.changed:
            self.changed = False
            for node, role in zip(reversed(net.built.graph.nodes), reversed(roles), strict=True):
                self._constrain(node, role)

    def _keep(self, value: int, mask: Any, reason: Any) -> None:
        """Take channels back."""
        lost = self.free[value] & mask
        if not lost.any():
            return
        self.why[value] = np.where(lost, reason, self.why[value])
        self.free[value] = self.free[value] & ~lost
        self.changed = True

    def _tie(self, parts: Iterable[tuple[int, slice]]) -> None:
        """Equal-sized parts of values that go together."""
        parts = list(parts)
        together = np.logical_and.reduce([self.free[v][s] for v, s in parts])
        reason = np.full(len(together), "", object)
        for value, part in parts:
            known = ~self.free[value][part] & (reason == "")
            reason = np.where(known, self.why[value][part], reason)
        for value, part in parts:
            mask = np.zeros(len(self.free[value]), bool)
            mask[part] = ~together
            whole = np.full(len(mask), "", object)
            whole[part] = reason
            self._keep(value, mask, whole)

    def _constrain(self, node: Node, role: Role) -> None:
        inputs = [v.index for v in node.inputs]
        outputs = [v.index for v in node.outputs]
        if role.kind == FILTERS and role.bank is not None:
            self._filters(node, role.bank, inputs[0], outputs[0])
        elif role.kind == SAME:
            self._tie((v, slice(None)) for v in (*inputs, *outputs))
        elif role.kind in (JOIN, CUT):
            (whole,), parts = (outputs, inputs) if role.kind == JOIN else (inputs, outputs)
            start = 0
            for part in parts:
                size = len(self.free[part])
                if role.kind == CUT:
                    self._one(part, node)
                self._tie([(part, slice(None)), (whole, slice(start, start + size))])
                start += size
        elif role.kind == SPREAD:
            self._spread(inputs[0], outputs[0])
        elif role.kind != SINK:
            for value in (*inputs, *outputs):
                self._keep(value, True, role.reason)

    def _one(self, value: int, node: Node) -> None:
        if len(self.free[value]) and self.free[value].all():
            first = np.arange(len(self.free[value])) == 0
            self._keep(value, first, f"{node.layer.name} keeps one channel")

    def _spread(self, bottom: int, top: int) -> None:
        channels = len(self.free[bottom])
        entries = self.free[top].reshape(channels, -1)
        first = self.why[top].reshape(channels, -1)[np.arange(channels), (~entries).argmax(1)]
        self._keep(bottom, ~entries.all(1), first)
        count = entries.shape[1]
        self._keep(top, np.repeat(~self.free[bottom], count), np.repeat(self.why[bottom], count))

    def _filters(self, node: Node, bank: Bank, bottom: int, top: int) -> None:
        self._one(top, node)
        known = self.constants[bottom]
        foldable = (known == 0) | (~np.isnan(known) & bank.exact)
        used = np.zeros(bank.inputs, bool)
        for index in range(bank.group):
            rows, columns = bank.of_group(index)
            staying = bank.weight[rows][~self.free[top][rows]]
            used[columns] = (staying != 0).any((0, 2))
        where = np.where(
            np.isnan(known), f"{node.layer.name} reads it",
            f"{node.layer.name} pads, where a constant cannot be folded exactly",
        )  # fmt: skip
        self._keep(bottom, used & ~foldable, where)
        self._one(bottom, node)
        if bank.group > 1:
            self._groups(node, bank, bottom, top)

    def _groups(self, node: Node, bank: Bank, bottom: int, top: int) -> None:
        """Whole groups go; the others keep as many channels as the fullest of them."""
        places = [bank.of_group(index) for index in range(bank.group)]
        staying = [
            (rows, columns) for rows, columns in places
            if not (self.free[top][rows].all() and self.free[bottom][columns].all())
        ] or places[:1]  # fmt: skip
        reason = f"the groups of {node.layer.name} must be equal"
        for side, value in ((0, top), (1, bottom)):
            parts = [pair[side] for pair in staying]
            most = max(1, *(int((~self.free[value][part]).sum()) for part in parts))
            for part in parts:
                spare = np.flatnonzero(self.free[value][part]) + part.start
                missing = most - int((~self.free[value][part]).sum())
                mask = np.zeros(len(self.free[value]), bool)
                mask[spare[:missing]] = True
                self._keep(value, mask, reason)

    def kept_groups(self, bank: Bank, bottom: int, top: int) -> list[int]:
        """The groups of a layer of which something stays."""
        return [
            index for index in range(bank.group)
            for rows, columns in [bank.of_group(index)]
            if not (self.free[top][rows].all() and self.free[bottom][columns].all())
        ]  # fmt: skip
