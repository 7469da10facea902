"""A net as a picture: Graphviz text (DOT) and SVG, without Graphviz.

A layer that works in place is written into the box of the layer whose blob it changes.
"""

from __future__ import annotations

from itertools import pairwise
from xml.sax.saxutils import escape

from caffe_bridge.errors import printable
from caffe_bridge.graph.layout import Box, Layout, layout
from caffe_bridge.graph.spec import LayerSpec, NetSpec
from caffe_bridge.graph.ssa import wire
from caffe_bridge.schema import Record

#: Fill colours by kind of layer.
COLOURS = {
    "input": "#d9ead3", "window": "#cfe2f3", "pool": "#fde3c8", "dense": "#e2d5ee",
    "join": "#fff2cc", "loss": "#f4cccc", "other": "#efefef",
}  # fmt: skip
_KINDS = {
    "Convolution": "window", "Deconvolution": "window", "Im2col": "window", "Pooling": "pool",
    "SPP": "pool", "ROIPooling": "pool", "InnerProduct": "dense", "Embed": "dense",
    "LSTM": "dense", "RNN": "dense", "Concat": "join", "Eltwise": "join", "Slice": "join",
    "Crop": "join", "Accuracy": "loss", "Softmax": "other",
}  # fmt: skip


def _kind(layer: LayerSpec) -> str:
    if not layer.bottoms:
        return "input"
    return _KINDS.get(layer.type, "loss" if "Loss" in layer.type else "other")


def _pair(p: Record, plain: str, height: str, width: str, default: int) -> str:
    if p.has(height) or p.has(width):
        return f"{getattr(p, height)}x{getattr(p, width)}"
    value = getattr(p, plain)
    sizes = [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)]
    sizes = sizes or [default]
    return "x".join(map(str, sizes if len(sizes) > 1 else sizes * 2))


def _window(p: Record) -> str:
    text = _pair(p, "kernel_size", "kernel_h", "kernel_w", 1)
    for plain, default in (("stride", 1), ("pad", 0)):
        sizes = _pair(p, plain, f"{plain}_h", f"{plain}_w", default)
        if sizes != f"{default}x{default}":
            first, _, second = sizes.partition("x")
            text += f" {plain[0]}{first if first == second else sizes}"
    return text


def describe(layer: LayerSpec) -> str:
    """The type and what matters of its parameters: ``Convolution 3x3 p1 > 64``."""
    r = layer.record
    if layer.type in ("Convolution", "Deconvolution"):
        return f"{layer.type} {_window(r.convolution_param)} > {r.convolution_param.num_output}"
    if layer.type == "Pooling":
        p = r.pooling_param
        return f"{p.pool.lower()} Pooling {'global' if p.global_pooling else _window(p)}"
    if layer.type == "InnerProduct":
        return f"InnerProduct > {r.inner_product_param.num_output}"
    if layer.type == "Eltwise":
        return f"Eltwise {r.eltwise_param.operation.lower()}"
    return layer.type


def rates(layer: LayerSpec) -> tuple[float, float] | None:
    """lr_mult of weights and bias of the layers that draw_net.py shows them for.

    None for other types, and where both are zero.
    """
    if layer.type not in ("Convolution", "Deconvolution", "InnerProduct"):
        return None
    given = [1.0 if param.lr_mult is None else param.lr_mult for param in layer.params[:2]]
    weight, bias = (*given, 1.0, 1.0)[:2]
    return (weight, bias) if weight or bias else None


def _makers(spec: NetSpec, every: bool) -> list[list[int]]:
    """For each layer the layers that make what it reads, each once.

    Args:
        spec: the net.
        every: whether layers of several phases stand side by side, so that a blob may have several
            makers.

    Raises:
        GraphError: the wiring is broken.
    """
    if not every:
        nodes = wire(spec).nodes
        return [list(dict.fromkeys(v.producer for v in node.inputs)) for node in nodes]
    made: dict[str, list[int]] = {}
    found = []
    for index, layer in enumerate(spec.layers):
        found.append(list(dict.fromkeys(m for b in layer.bottoms for m in made.get(b, ()))))
        for top in layer.tops:
            made[top] = [index] if top in layer.bottoms else [*made.get(top, ()), index]
    return found


def net_layout(
    spec: NetSpec, horizontal: bool = False, every: bool = False, show_rates: bool = False
) -> Layout:
    """Boxes and edges of a net with their places.

    Args:
        spec: the net.
        horizontal: from left to right instead of downwards.
        every: the net's layers are those of all phases.
        show_rates: write lr_mult into the boxes, see :func:`rates`.

    Raises:
        GraphError: the wiring is broken.
    """
    boxes: list[Box] = []
    box_of: dict[int, int] = {}
    edges: list[tuple[int, int]] = []
    for index, (layer, layers) in enumerate(zip(spec.layers, _makers(spec, every), strict=True)):
        makers = [box_of[maker] for maker in layers]
        in_place = bool(layer.bottoms) and layer.tops == layer.bottoms[:1] and len(makers) == 1
        if in_place:
            box = boxes[makers[0]]
            same = layer.name in (layer.type, box.lines[0])
            box.lines += (printable(f"+ {describe(layer)}{'' if same else f' ({layer.name})'}"),)
            box_of[index] = makers[0]
            continue
        box_of[index] = len(boxes)
        title = printable(layer.name) or "(unnamed)"
        boxes.append(Box((title, *_words(layer, show_rates)), _kind(layer)))
        edges += [(maker, len(boxes) - 1) for maker in dict.fromkeys(makers)]
    return layout(boxes, edges, horizontal)


def _words(layer: LayerSpec, show_rates: bool) -> list[str]:
    found = rates(layer) if show_rates else None
    return [describe(layer), *([f"lr_mult {found[0]:g}, {found[1]:g}"] if found else [])]


def curve(drawing: Layout, path: list[int]) -> list[tuple[float, float]]:
    """Start point, then two control points and an end point for every step of an edge."""
    boxes = drawing.boxes
    side = -0.5 if drawing.mirrored else 0.5
    points: list[tuple[float, float]] = []
    for upper, lower in pairwise(boxes[i] for i in path):
        if drawing.horizontal:
            start, end = upper.x + side * upper.width, lower.x - side * lower.width
            middle = (start + end) / 2
            step = [(start, upper.y), (middle, upper.y), (middle, lower.y), (end, lower.y)]
        else:
            start, end = upper.y + side * upper.height, lower.y - side * lower.height
            middle = (start + end) / 2
            step = [(upper.x, start), (upper.x, middle), (lower.x, middle), (lower.x, end)]
        if points:
            points += [points[-1], step[0], step[0]]
        points += step if not points else step[1:]
    return points


def svg(drawing: Layout, title: str) -> str:
    """The drawing as a stand-alone SVG document."""
    wide, high = round(drawing.width), round(drawing.height)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" '
        f'viewBox="0 0 {wide} {high}" font-family="Helvetica, Arial, sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
        f'<rect width="{wide}" height="{high}" fill="white"/>',
    ]
    for path in drawing.paths:
        first, *rest = curve(drawing, path)
        steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in rest)
        out.append(
            f'<path d="M{first[0]:.1f},{first[1]:.1f} C{steps}" fill="none" stroke="#555" '
            'marker-end="url(#a)"/>'
        )
    for box in drawing.boxes:
        if box.hidden:
            continue
        left, top = box.x - box.width / 2, box.y - box.height / 2
        out.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" '
            f'height="{box.height:.1f}" rx="4" fill="{COLOURS[box.kind]}" stroke="#666"/>'
        )
        for number, line in enumerate(box.lines):
            bold = ' font-weight="bold"' if number == 0 else ""
            out.append(
                f'<text x="{box.x:.1f}" y="{top + 15 + 15 * number:.1f}" text-anchor="middle"'
                f"{bold}>{escape(line)}</text>"
            )
    return "\n".join([*out, "</svg>", ""])


def _quoted(text: str) -> str:
    return '"' + printable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def dot(spec: NetSpec, rankdir: str = "LR", every: bool = False, show_rates: bool = False) -> str:
    """The net for Graphviz: layers as boxes, blobs as octagons; see :func:`net_layout`.

    Raises:
        GraphError: the wiring is broken.
    """
    _makers(spec, every)
    lines = [f"digraph {_quoted(spec.name or 'net')} {{", f"  rankdir={rankdir};"]
    blobs = dict.fromkeys(b for layer in spec.layers for b in (*layer.bottoms, *layer.tops))
    lines += [
        f"  {_quoted('blob ' + blob)} [shape=octagon, label={_quoted(blob)}];" for blob in blobs
    ]
    for index, layer in enumerate(spec.layers):
        label = "\\n".join(_quoted(t)[1:-1] for t in (layer.name, *_words(layer, show_rates)))
        key = _quoted(f"layer {index}")
        lines.append(
            f'  {key} [shape=box, style=filled, fillcolor="{COLOURS[_kind(layer)]}", '
            f'label="{label}"];'
        )
        lines += [f"  {_quoted('blob ' + blob)} -> {key};" for blob in layer.bottoms]
        lines += [f"  {key} -> {_quoted('blob ' + blob)};" for blob in layer.tops]
    return "\n".join([*lines, "}", ""])
