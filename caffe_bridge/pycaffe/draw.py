"""``caffe.draw``: pictures of nets, laid out here; Graphviz is not needed."""

from __future__ import annotations

import importlib
import io
import os
from pathlib import Path
from typing import Any

from caffe_bridge.errors import BackendError, BridgeError, printable
from caffe_bridge.files import atomic_write
from caffe_bridge.graph import NetSpec, layer_spec, load_net, read_net
from caffe_bridge.graph.draw import COLOURS, curve, dot, net_layout, svg
from caffe_bridge.graph.layout import Layout
from caffe_bridge.schema import Record, upgrade_net
from caffe_bridge.schema.protobuf import from_message

_PHASES = {0: "TRAIN", 1: "TEST"}
_LARGEST_PIXELS = 30000


def _spec(caffe_net: Any, phase: int | None) -> NetSpec:
    """The net filtered for a phase; without one all layers, as draw_net.py's ALL."""
    if isinstance(caffe_net, NetSpec):
        return caffe_net
    if isinstance(caffe_net, str | os.PathLike):
        record = read_net(caffe_net)
    else:
        record = caffe_net if isinstance(caffe_net, Record) else from_message(caffe_net)
        record = upgrade_net(record.copy())
    if phase is not None:
        return load_net(record, _PHASES[phase])
    if not record.layer:
        raise BridgeError(f"{record.where()}: has no layers to draw; is it a net prototxt?")
    made = load_net(Record("NetParameter", name=record.name), "TRAIN")
    return made.with_layers(tuple(layer_spec(layer) for layer in record.layer))


def _picture(drawing: Layout, kind: str) -> bytes:
    """The drawing through matplotlib: PNG, PDF or JPEG."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.path import Path as Curve

    scale = min(1.5, _LARGEST_PIXELS / max(drawing.width, drawing.height))
    figure = Figure(figsize=(drawing.width / 72, drawing.height / 72), dpi=72 * scale)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, drawing.width)
    axes.set_ylim(drawing.height, 0)
    axes.set_axis_off()
    for path in drawing.paths:
        points = curve(drawing, path)
        codes = [Curve.MOVETO] + [Curve.CURVE4] * (len(points) - 1)
        style = "-|>,head_length=4,head_width=2.5"
        made = FancyArrowPatch(path=Curve(points, codes), arrowstyle=style, color="#555555", lw=0.9)
        axes.add_patch(made)
    for box in drawing.boxes:
        if box.hidden:
            continue
        corner = (box.x - box.width / 2, box.y - box.height / 2)
        axes.add_patch(
            FancyBboxPatch(
                corner, box.width, box.height, boxstyle="round,pad=0,rounding_size=4",
                facecolor=COLOURS[box.kind], edgecolor="#666666", lw=0.8,
            )
        )  # fmt: skip
        for number, line in enumerate(box.lines):
            axes.text(
                box.x, corner[1] + 12 + 15 * number, line, ha="center", va="center", fontsize=9,
                fontweight="bold" if number == 0 else "normal", parse_math=False,
            )  # fmt: skip
    stream = io.BytesIO()
    figure.savefig(stream, format=kind)
    return stream.getvalue()


def draw_net(
    caffe_net: Any,
    rankdir: str = "LR",
    ext: str = "png",
    phase: int | None = None,
    display_lrm: bool = False,
) -> bytes:
    """A picture of a net.

    Args:
        caffe_net: caffe_pb2.NetParameter, prototxt path, Record or NetSpec.
        rankdir: LR or RL from left to right or back, TB or BT downwards or upwards.
        ext: svg, dot (or raw), png, jpg or pdf.
        phase: caffe.TRAIN or caffe.TEST; None draws the layers of both.
        display_lrm: show lr_mult of layers with weights.

    Returns:
        The file's content.

    Raises:
        BridgeError: unknown arguments, or the net cannot be read or wired.
    """
    direction, kind = rankdir.upper(), ext.lower().lstrip(".")
    if direction not in ("LR", "RL", "TB", "BT"):
        raise BridgeError(
            f"rankdir '{rankdir}': use LR (left to right), RL, TB (top to bottom) or BT."
        )
    spec = _spec(caffe_net, phase)
    every = phase is None and not isinstance(caffe_net, NetSpec)
    if kind in ("dot", "raw", "gv"):
        return dot(spec, direction, every, display_lrm).encode()
    drawing = net_layout(spec, direction in ("LR", "RL"), every, display_lrm)
    if direction in ("RL", "BT"):
        drawing.mirror()
    if kind == "svg":
        return printable(svg(drawing, spec.name or "net")).encode()
    if kind in ("png", "pdf", "jpg", "jpeg"):
        return _picture(drawing, kind)
    raise BridgeError(f"'{ext}' is no kind of picture drawn here; use svg, dot, png, jpg or pdf.")


def draw_net_to_file(
    caffe_net: Any,
    filename: str | os.PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Write a picture whose kind is the end of the file's name; see :func:`draw_net`.

    Raises:
        BridgeError: see :func:`draw_net`.
    """
    content = draw_net(caffe_net, rankdir, Path(filename).suffix or ".png", phase, display_lrm)
    with atomic_write(filename) as stream:
        stream.write(content)


def get_pydot_graph(
    caffe_net: Any,
    rankdir: str,
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
) -> Any:
    """The net as a graph of pydot, which must be installed; edges have no labels.

    Raises:
        BackendError: no pydot.
        BridgeError: see :func:`draw_net`.
    """
    try:
        pydot = importlib.import_module("pydot")
    except ImportError as error:
        raise BackendError(
            "get_pydot_graph needs pydot; run 'pip install pydot', or take the text of "
            "draw_net(net, rankdir, 'dot')."
        ) from error
    text = draw_net(caffe_net, rankdir, "dot", phase, display_lrm).decode()
    return pydot.graph_from_dot_data(text)[0]
