"""From a net to an ONNX model: our own emission, node by node, under Caffe's names.

Blob names are value names, layer names are node names, learnable blobs are initializers. A blob
that layers overwrite in place belongs to its last value; earlier ones are called ``blob@layer``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import helper

from caffe_bridge import __version__
from caffe_bridge.errors import BridgeError, ExportError, printable
from caffe_bridge.files import atomic_write
from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Layer
from caffe_bridge.net import Net
from caffe_bridge.onnx_export.dims import dims_of
from caffe_bridge.onnx_export.emitter import GraphEmitter
from caffe_bridge.onnx_export.fold import fold

DEFAULT_OPSET = 17
OLDEST_OPSET = 13
#: What the operators are chosen for: any runtime, or onnxruntime on a processor or with CUDA.
TARGETS = ("portable", "ort-cpu", "ort-cuda")
_SIZE_LIMIT = 2**31 - 1


def newest_opset() -> int:
    """The newest operator set that the installed onnx knows."""
    return int(onnx.defs.onnx_opset_version())


def _check_opset(opset: int) -> None:
    if not OLDEST_OPSET <= opset <= newest_opset():
        raise ExportError(
            f"opset {opset} is not supported; use {OLDEST_OPSET} to {newest_opset()} "
            f"(the newest that the installed onnx {onnx.__version__} knows)."
        )


def export(
    net: Net,
    opset: int = DEFAULT_OPSET,
    dynamic_batch: bool = True,
    outputs: Sequence[str] | None = None,
    target: str = "portable",
    forms: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """State a net in ONNX.

    Args:
        net: a net in the TEST phase, with its weights.
        opset: operator set, 13 to the newest.
        dynamic_batch: leave the first axis of the inputs free where the net allows it.
        outputs: blobs to give out; by default those that no layer reads. What they do not need
            is left out.
        target: one of ``TARGETS``; it picks among equivalent forms of a layer, and all but
            ``portable`` fold constant factors and summands into the layer before.
        forms: form by layer name, instead of the target's choice.

    Returns:
        A model that passed ``onnx.checker``'s full check with strict shape inference.

    Raises:
        ExportError: a layer that standard ONNX cannot state, a wrong opset, target, form or
            output name.
    """
    _check_opset(opset)
    _check_target(net, target, forms or {})
    graph, shapes = net.built.graph, net.built.shapes
    wanted = _wanted(net, outputs)
    dims = dims_of(net, dynamic_batch)
    emitter = GraphEmitter(
        opset, {v.name: shapes[v.index] for v in graph.values}, dims.of, dims.batch, set(wanted)
    )
    inputs: list[str] = []
    for node, layer in zip(graph.nodes, net.built.layers, strict=True):
        sizes = [shapes[value.index] for value in node.inputs]
        emitter.begin(layer, _form(layer, sizes, target, forms or {}))
        layer.emit(emitter, [v.name for v in node.inputs], [v.name for v in node.outputs])
        emitter.finish()
        undefined = [v.name for v in node.outputs if v.name not in emitter.defined]
        if undefined and not layer.is_input:
            layer.refuse(f"emits no node that makes {', '.join(undefined)}.")
        inputs += undefined
    if target != "portable":
        ranks = {name: len(sizes) for name, sizes in dims.of.items()}
        emitter.nodes = fold(emitter.nodes, emitter.initializers, set(wanted), ranks)
    nodes = _needed(emitter.nodes, wanted)
    read = {name for node in nodes for name in node.input}
    made = {name for node in nodes for name in node.output}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            printable(net.spec.name) or "net",
            [emitter.value_info(name) for name in inputs if name in read],
            [emitter.value_info(name) for name in wanted],
            [value for name, value in emitter.initializers.items() if name in read],
            value_info=[emitter.value_info(v.name) for v in graph.values
                        if v.name in made and v.name not in wanted],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        producer_name="caffe_bridge",
        producer_version=__version__,
    )  # fmt: skip
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    helper.set_model_props(
        model,
        {
            "caffe_layers": json.dumps({n.name: emitter.node_layers[n.name] for n in nodes}),
            "caffe_net": printable(net.spec.name),
            "target": target,
            "dynamic_batch": json.dumps(dims.free),
        },
    )
    _check(model, net)
    return model


def forms_of(net: Net) -> dict[str, tuple[str, ...]]:
    """The ONNX forms of the layers that have a choice, by layer name, the portable one first."""
    found = {}
    for node, layer in zip(net.built.graph.nodes, net.built.layers, strict=True):
        known = layer.forms([net.built.shapes[value.index] for value in node.inputs])
        if len(known) > 1:
            found[layer.name] = known
    return found


def _form(layer: Layer, shapes: Sequence[Shape], target: str, forms: Mapping[str, str]) -> str:
    """The form asked for, else the target's."""
    asked = forms.get(layer.name)
    if asked is None:
        return layer.form_for(target, shapes)
    known = layer.forms(shapes)
    if asked not in known:
        layer.refuse(f"has no ONNX form '{asked}'; it has {', '.join(known) or 'just one'}.")
    return asked


def _check_target(net: Net, target: str, forms: Mapping[str, str]) -> None:
    if target not in TARGETS:
        raise ExportError(f"target '{target}' is not known; use {', '.join(TARGETS)}.")
    unknown = set(forms) - {layer.name for layer in net.built.layers}
    if unknown:
        raise ExportError(
            f"{net.spec.source}: a form is given for '{min(unknown)}', which is no layer of it."
        )


def _wanted(net: Net, outputs: Sequence[str] | None) -> list[str]:
    """Names of the blobs to give out."""
    blobs = net.built.graph.blobs()
    fed = {name for name, v in blobs.items() if net.built.layers[v.producer].is_input}
    for name in outputs or ():
        if name not in blobs:
            raise ExportError(
                f"{net.spec.source}: has no blob '{name}'; blobs are {', '.join(blobs)}."
            )
        if name in fed:
            raise ExportError(
                f"{net.spec.source}: '{name}' is an input, which no layer computes; name another "
                "blob to give out."
            )
    if outputs:
        return [printable(name) for name in dict.fromkeys(outputs)]
    wanted = [name for name in net.outputs if name not in fed]
    if not wanted:
        raise ExportError(
            f"{net.spec.source}: computes no output; it has {len(blobs)} blobs, all of them inputs."
        )
    return [printable(name) for name in wanted]


def _needed(nodes: Sequence[onnx.NodeProto], wanted: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes on which the wanted values depend, in their order."""
    needed = set(wanted)
    kept = []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    return kept[::-1]


def expose(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an exported model that gives out every value of the net, for verification."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(model.graph.value_info)
    del copy.graph.value_info[:]
    return copy


def _check(model: onnx.ModelProto, net: Net) -> None:
    weights = sum(len(value.raw_data) for value in model.graph.initializer)
    if weights > _SIZE_LIMIT or model.ByteSize() > _SIZE_LIMIT:
        raise ExportError(
            f"{net.spec.source}: the weights take {weights} bytes, more than the 2 GB that one "
            "ONNX file can hold; decompose the net or split it."
        )
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"{net.spec.source}: onnx refuses the exported model: {str(error).strip()[:400]}"
        ) from error


def save(model: onnx.ModelProto, path: str | os.PathLike[str]) -> Path:
    """Write the model, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(model.SerializeToString())
    return Path(path)


def convert(
    net: Net, path: str | os.PathLike[str], opset: int = DEFAULT_OPSET, target: str = "portable",
    forms: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Export and write in one step.

    Raises:
        BridgeError: see :func:`export`; nothing is written then.
    """
    if not Path(path).parent.is_dir():
        raise BridgeError(f"{Path(path).parent}: no such folder; make it first.")
    return save(export(net, opset, target=target, forms=forms), path)
