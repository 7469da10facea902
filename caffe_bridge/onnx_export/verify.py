"""Does the ONNX model compute what the net computes? Blob by blob, in onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import torch

from caffe_bridge.errors import BackendError, ShapeError, VerifyError, printable
from caffe_bridge.graph import Shape
from caffe_bridge.net import Net
from caffe_bridge.onnx_export.export import export, expose

#: Largest relative difference that counts as equal: float32 sums in another order.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Difference:
    """How far one blob of the ONNX model is from the net's.

    ``relative`` is max|difference| / max(1e-3, max|value|).
    """

    blob: str
    batch: int
    shape: tuple[int, ...]
    absolute: float
    relative: float
    output: bool


@dataclass(frozen=True)
class Verification:
    """All differences, in the net's order."""

    differences: tuple[Difference, ...]
    batches: tuple[int, ...]
    tolerance: float

    @property
    def worst(self) -> float:
        """Largest relative difference of an output."""
        return max((d.relative for d in self.differences if d.output), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether there are outputs, and every one of every batch is within tolerance."""
        return any(d.output for d in self.differences) and self.worst <= self.tolerance

    def first_bad(self) -> Difference | None:
        """The first blob, in the net's order, beyond tolerance."""
        return next((d for d in self.differences if d.relative > self.tolerance), None)

    def require(self, what: str) -> Verification:
        """Return self, or raise.

        Raises:
            VerifyError: an output differs; names the first diverging blob.
        """
        if not self.passed:
            bad = self.first_bad()
            where = f"'{bad.blob}' at batch {bad.batch} by {bad.relative:.2g}" if bad else "?"
            raise VerifyError(
                f"{what}: onnxruntime and the net differ by {self.worst:.2g} relative "
                f"(allowed {self.tolerance:g}); the first blob to differ is {where}."
            )
        return self


def difference(got: np.ndarray, want: np.ndarray) -> tuple[float, float]:
    """Largest absolute and relative difference; infinite for different shapes or NaN patterns."""
    if got.shape != want.shape:
        return float("inf"), float("inf")
    if want.size == 0:
        return 0.0, 0.0
    with np.errstate(invalid="ignore"):
        gap = np.asarray(np.abs(got.astype(np.float64) - want.astype(np.float64)))
    gap[(got == want) | (np.isnan(got) & np.isnan(want))] = 0.0
    worst = float(gap.max()) if np.isfinite(gap).all() else float("inf")
    finite = np.abs(want[np.isfinite(want)]).max(initial=0.0)
    return worst, worst / max(1e-3, float(finite))


def random_feed(
    net: Net, batch: int | None = None, seed: int = 0, scale: float = 1.0
) -> dict[str, torch.Tensor]:
    """Seeded standard-normal inputs (0 or 1 for labels), optionally with another batch size."""
    generator = torch.Generator().manual_seed(seed)
    labels = _labels(net)
    feed = {}
    for name, shape in net.inputs.items():
        size = (batch, *shape[1:]) if batch and shape else shape
        values = torch.randn(size, generator=generator)
        feed[name] = (values > 0).float() if name in labels else values * scale
    return feed


def _labels(net: Net) -> set[str]:
    """Inputs that are only read where no gradient flows: labels, marks and numbers of rows."""
    real: set[int] = set()
    read: dict[int, str] = {}
    for node, layer in zip(net.built.graph.nodes, net.built.layers, strict=True):
        for position, value in enumerate(node.inputs):
            read[value.index] = value.blob
            if position not in layer.no_gradient_bottoms:
                real.add(value.index)
    return {blob for index, blob in read.items() if index not in real}


def session(model: onnx.ModelProto | str | os.PathLike[str]) -> ort.InferenceSession:
    """A one-threaded onnxruntime session on the CPU.

    Raises:
        BackendError: the installed onnxruntime cannot load the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    name = "the exported model" if isinstance(model, onnx.ModelProto) else os.fspath(model)
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else name
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise BackendError(
            f"{name}: onnxruntime {ort.__version__} cannot load it ({reason}); export it again, or "
            "with a lower opset."
        ) from error


def output_names(path: str | os.PathLike[str]) -> list[str]:
    """Names of an ONNX file's outputs.

    Raises:
        BackendError: the installed onnxruntime cannot load the file.
    """
    return [item.name for item in session(path).get_outputs()]


def batches_of(net: Net, wanted: Sequence[int]) -> tuple[int, ...]:
    """Those of the wanted batch sizes that the net allows."""
    allowed = []
    for batch in wanted:
        shapes = {name: (batch, *shape[1:]) for name, shape in net.inputs.items() if shape}
        try:
            net.shapes_for(shapes)
        except ShapeError:
            continue
        allowed.append(batch)
    return tuple(allowed)


def _sizes(net: Net, loaded: ort.InferenceSession, wanted: Sequence[int]) -> tuple[int, ...]:
    """Batch sizes to try: those wanted that fit, or the one for which model or net are fixed."""
    firsts = {item.shape[0] for item in loaded.get_inputs() if item.shape}
    own = {shape[0] for shape in net.inputs.values() if shape}
    fixed = {size for size in firsts if isinstance(size, int)}
    if firsts and not fixed:
        return batches_of(net, wanted) or tuple(own)[:1]
    if len(own) == 1 and len(fixed) == 1 and batches_of(net, tuple(fixed)):
        return tuple(fixed)
    return (0,)


def _check_names(net: Net, loaded: ort.InferenceSession, what: str) -> None:
    values = {value.name for value in net.built.graph.values}
    fed = {printable(name) for name in net.inputs}
    for kind, items, known in (
        ("output", loaded.get_outputs(), values), ("input", loaded.get_inputs(), fed),
    ):  # fmt: skip
        for item in items:
            if item.name not in known:
                raise VerifyError(
                    f"{what}: its {kind} '{item.name}' is none of the {kind}s of {net.spec.source} "
                    f"({', '.join(sorted(known))[:200]}); give the net that it was made from."
                )


def _arrays(
    loaded: ort.InferenceSession, given: Mapping[str, torch.Tensor], what: str
) -> dict[str, np.ndarray]:
    """The inputs of a session.

    Raises:
        VerifyError: the net's shapes are not the model's.
    """
    arrays = {}
    named = {printable(name): value for name, value in given.items()}
    for item in loaded.get_inputs():
        array = np.asarray(named[item.name].numpy(), order="C")
        shape: Shape = tuple(array.shape)
        if len(shape) != len(item.shape) or any(
            isinstance(want, int) and want != size
            for want, size in zip(item.shape, shape, strict=True)
        ):
            raise VerifyError(
                f"{what}: its input '{item.name}' has shape {tuple(item.shape)}, the net's has "
                f"{shape}; give the net inputs of that shape (--input)."
            )
        arrays[item.name] = array
    return arrays


def _run(
    loaded: ort.InferenceSession, arrays: Mapping[str, np.ndarray], what: str
) -> dict[str, np.ndarray]:
    names = [item.name for item in loaded.get_outputs()]
    try:
        return dict(zip(names, loaded.run(names, dict(arrays)), strict=True))
    except Exception as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise BackendError(f"{what}: onnxruntime cannot run it ({reason}).") from error


@torch.no_grad()
def verify(
    net: Net,
    model: onnx.ModelProto | str | os.PathLike[str] | None = None,
    batches: Sequence[int] = (1, 3),
    feed: Mapping[str, torch.Tensor] | None = None,
    seed: int = 0,
    opset: int = 17,
    tolerance: float = TOLERANCE,
    every_blob: bool = False,
) -> Verification:
    """Compare the ONNX form of a net with the net itself.

    Args:
        net: the net, TEST phase.
        model: an exported model or file; when None, a fresh export whose every blob is checked.
        batches: batch sizes to try with random inputs, where the net and the model allow them.
        feed: inputs to use instead (one run with their batch).
        seed: seed of the random inputs.
        opset: operator set of the fresh export.
        tolerance: largest relative difference of an output that passes.
        every_blob: compare the values between the layers of an exported model too. They come from
            a second session, as onnxruntime fuses what nobody asks for.

    Raises:
        ExportError: the net cannot be exported.
        VerifyError: the model has other inputs or outputs than the net.
        BackendError: onnxruntime cannot load or run the model.
    """
    if model is None:
        model, every_blob = export(net, opset), True
    inner = None
    what = "the exported model"
    if not isinstance(model, onnx.ModelProto):
        what = os.fspath(model)
    elif every_blob:
        inner = session(expose(model))
    loaded = session(model)
    _check_names(net, loaded, what)
    outputs = {item.name for item in loaded.get_outputs()}
    found = []
    sizes = (0,) if feed is not None else _sizes(net, loaded, batches)
    for batch in sizes:
        given = dict(feed) if feed is not None else random_feed(net, batch or None, seed)
        arrays = _arrays(loaded, given, what)
        net.reset_state()
        values = net.run(given)
        results = _run(loaded, arrays, what)
        if inner is not None:
            results = _run(inner, arrays, what) | results
        shown = batch or next((t.shape[0] for t in given.values() if t.ndim), 1)
        for value in net.built.graph.values:
            if value.name in results:
                want = values[value.index].detach().numpy()
                absolute, relative = difference(results[value.name], want)
                found.append(
                    Difference(value.name, shown, tuple(want.shape), absolute, relative,
                               value.name in outputs)
                )  # fmt: skip
    return Verification(tuple(found), tuple(dict.fromkeys(d.batch for d in found)), tolerance)


def compare_models(
    net: Net,
    model: onnx.ModelProto,
    other: onnx.ModelProto,
    batches: Sequence[int] = (1, 3),
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Compare two ONNX forms of a net with each other, output by output, on random inputs.

    Raises:
        BackendError: onnxruntime cannot load or run one of them.
    """
    loaded, changed = session(model), session(other)
    what = "the exported model"
    found = []
    for batch in _sizes(net, loaded, batches):
        given = random_feed(net, batch or None, seed)
        want = _run(loaded, _arrays(loaded, given, what), what)
        got = _run(changed, _arrays(changed, given, what), what)
        shown = batch or next((t.shape[0] for t in given.values() if t.ndim), 1)
        for name, value in want.items():
            absolute, relative = difference(got[name], value)
            found.append(Difference(name, shown, tuple(value.shape), absolute, relative, True))
    return Verification(tuple(found), tuple(dict.fromkeys(d.batch for d in found)), tolerance)
