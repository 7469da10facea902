"""Where the boxes of a net stand in a drawing: ranks, order within a rank, coordinates.

Layered drawing in three steps: a box's rank is the length of the longest path to it; boxes of a
rank are ordered by the mean position of their neighbours, swept down and up; places are the
least-squares solution that keeps this order and the distances (isotonic regression). Edges that
span several ranks pass through invisible boxes, so that they do not cross others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

_SWEEPS = 12
_GAP, _RANK_GAP, _MARGIN = 18.0, 34.0, 16.0
_CHAR, _LINE, _PAD = 6.4, 15.0, 9.0


@dataclass
class Box:
    """One box: lines of text, kind (for the colour), and its centre and size once laid out."""

    lines: tuple[str, ...]
    kind: str
    rank: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0
    hidden: bool = False
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)


@dataclass
class Layout:
    """Boxes with their places, edges as lists of box indices (through hidden ones), and size.

    ``mirrored``: edges go to the left, or upwards.
    """

    boxes: list[Box]
    paths: list[list[int]]
    width: float
    height: float
    horizontal: bool
    mirrored: bool = False

    def mirror(self) -> None:
        """Turn the direction of the edges round."""
        self.mirrored = not self.mirrored
        for box in self.boxes:
            if self.horizontal:
                box.x = self.width - box.x
            else:
                box.y = self.height - box.y


def _isotonic(wanted: Sequence[float], distances: Sequence[float]) -> list[float]:
    """Places nearest to ``wanted`` with at least ``distances`` between neighbours, in order."""
    offsets = [0.0]
    for distance in distances:
        offsets.append(offsets[-1] + distance)
    blocks: list[tuple[float, int]] = []
    for want, offset in zip(wanted, offsets, strict=True):
        total, count = want - offset, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / count:
            before, items = blocks.pop()
            total, count = total + before, count + items
        blocks.append((total, count))
    flat = [total / count for total, count in blocks for _ in range(count)]
    return [value + offset for value, offset in zip(flat, offsets, strict=True)]


def _rank(boxes: list[Box], edges: Sequence[tuple[int, int]]) -> None:
    """Longest path from the top; then boxes without bottoms sink to just above their reader."""
    for source, target in edges:
        boxes[target].rank = max(boxes[target].rank, boxes[source].rank + 1)
    readers: dict[int, list[int]] = {}
    fed = {target for _source, target in edges}
    for source, target in edges:
        readers.setdefault(source, []).append(target)
    for index, box in enumerate(boxes):
        if index not in fed and index in readers:
            box.rank = min(boxes[target].rank for target in readers[index]) - 1


def _connect(boxes: list[Box], edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    paths = []
    for source, target in edges:
        path = [source]
        for rank in range(boxes[source].rank + 1, boxes[target].rank):
            boxes.append(Box((), "", rank, width=4.0, height=4.0, hidden=True))
            path.append(len(boxes) - 1)
        path.append(target)
        for upper, lower in pairwise(path):
            boxes[upper].below.append(lower)
            boxes[lower].above.append(upper)
        paths.append(path)
    return paths


def _order(boxes: list[Box], ranks: list[list[int]]) -> None:
    place = {index: float(at) for rank in ranks for at, index in enumerate(rank)}
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for rank in ranks if down else ranks[::-1]:

            def key(index: int, down: bool = down) -> float:
                near = boxes[index].above if down else boxes[index].below
                return sum(place[n] for n in near) / len(near) if near else place[index]

            rank.sort(key=key)
            place.update({index: float(at) for at, index in enumerate(rank)})


def _across(boxes: list[Box], ranks: list[list[int]], size: dict[int, float]) -> None:
    at = dict.fromkeys(range(len(boxes)), 0.0)
    for sweep in range(2 * _SWEEPS):
        for rank in ranks if sweep % 2 == 0 else ranks[::-1]:
            wanted = []
            for index in rank:
                box = boxes[index]
                near = box.above if sweep % 2 == 0 else box.below
                near = near or [*box.above, *box.below]
                wanted.append(sum(at[n] for n in near) / len(near) if near else at[index])
            gaps = [(size[a] + size[b]) / 2 + _GAP for a, b in pairwise(rank)]
            at.update(zip(rank, _isotonic(wanted, gaps), strict=True))
    for index, box in enumerate(boxes):
        box.x = at[index]


def layout(boxes: list[Box], edges: Sequence[tuple[int, int]], horizontal: bool) -> Layout:
    """Place boxes.

    Args:
        boxes: in an order in which every edge goes to a later box.
        edges: pairs of indices.
        horizontal: ranks from left to right instead of downwards.

    Returns:
        Coordinates of centres in pixels; ``boxes`` grows by the hidden ones.
    """
    for box in boxes:
        box.width = max((len(line) for line in box.lines), default=1) * _CHAR + 2 * _PAD
        box.height = len(box.lines) * _LINE + _PAD
    _rank(boxes, edges)
    paths = _connect(boxes, edges)
    count = max((box.rank for box in boxes), default=-1) + 1
    ranks = [[i for i, box in enumerate(boxes) if box.rank == r] for r in range(count)]
    ranks = [rank for rank in ranks if rank]
    _order(boxes, ranks)
    size = {i: box.height if horizontal else box.width for i, box in enumerate(boxes)}
    _across(boxes, ranks, size)
    along = _MARGIN
    for rank in ranks:
        depth = max(boxes[i].width if horizontal else boxes[i].height for i in rank)
        for index in rank:
            boxes[index].y = along + depth / 2
            if boxes[index].hidden:  # the edge runs straight past its neighbours
                setattr(boxes[index], "width" if horizontal else "height", depth)
        along += depth + _RANK_GAP
    low = min((boxes[i].x - size[i] / 2 for i in size), default=0.0) - _MARGIN
    for box in boxes:
        box.x -= low
    wide = max((boxes[i].x + size[i] / 2 for i in size), default=0.0) + _MARGIN
    long = max(along - _RANK_GAP, 0.0) + _MARGIN
    if horizontal:
        for box in boxes:
            box.x, box.y = box.y, box.x
        wide, long = long, wide
    return Layout(boxes, paths, wide, long, horizontal)
