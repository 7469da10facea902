"""Does the ONNX model compute what the net computes? Blob by blob, in onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import torch

from caffe_bridge.errors import BackendError, ShapeError, VerifyError
from caffe_bridge.net import Net
from caffe_bridge.onnx_export.export import export

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
        """Whether every output of every batch is within tolerance."""
        return self.worst <= self.tolerance

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
    """Seeded standard-normal inputs, optionally with another batch size."""
    generator = torch.Generator().manual_seed(seed)
    feed = {}
    for name, shape in net.inputs.items():
        size = (batch, *shape[1:]) if batch and shape else shape
        feed[name] = torch.randn(size, generator=generator) * scale
    return feed


def session(model: onnx.ModelProto | str | os.PathLike[str]) -> ort.InferenceSession:
    """A one-threaded onnxruntime session on the CPU.

    Raises:
        BackendError: the installed onnxruntime cannot load the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else os.fspath(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackendError(
            f"onnxruntime {ort.__version__} cannot load the model: {str(error).strip()[:300]}"
        ) from error


def batches_of(net: Net, wanted: Sequence[int]) -> tuple[int, ...]:
    """Those of the wanted batch sizes that the net allows; its own size when none is."""
    allowed = []
    for batch in wanted:
        shapes = {name: (batch, *shape[1:]) for name, shape in net.inputs.items() if shape}
        try:
            net.shapes_for(shapes)
        except ShapeError:
            continue
        allowed.append(batch)
    return tuple(allowed)


@torch.no_grad()
def verify(
    net: Net,
    model: onnx.ModelProto | str | os.PathLike[str] | None = None,
    batches: Sequence[int] = (1, 3),
    feed: Mapping[str, torch.Tensor] | None = None,
    seed: int = 0,
    opset: int = 17,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Compare the ONNX form of a net with the net itself.

    Args:
        net: the net, TEST phase.
        model: an exported model or file whose outputs are checked; every blob is checked on a
            fresh export when None.
        batches: batch sizes to try with random inputs, where the net and the model allow them.
        feed: inputs to use instead (one run with their batch).
        seed: seed of the random inputs.
        opset: operator set of the fresh export.
        tolerance: largest relative difference of an output that passes.

    Raises:
        ExportError: the net cannot be exported.
        BackendError: onnxruntime cannot load the model.
    """
    if model is None:
        model = export(net, opset, every_blob=True)
    loaded = session(model)
    names = [item.name for item in loaded.get_outputs()]
    needed = [item.name for item in loaded.get_inputs()]
    free = all(isinstance(item.shape[0], str) for item in loaded.get_inputs() if item.shape)
    own = next((shape[0] for shape in net.inputs.values() if shape), 1)
    sizes: tuple[int, ...] = (0,) if feed is not None else (own,)
    if feed is None and free:
        sizes = batches_of(net, batches)
    value_names = {value.name: value.index for value in net.built.graph.values}
    outputs = set(net.outputs)
    found = []
    for batch in sizes:
        given = dict(feed) if feed is not None else random_feed(net, batch if free else None, seed)
        values = net.run(given)
        arrays = {name: np.asarray(given[name].numpy(), order="C") for name in needed}
        results = dict(zip(names, loaded.run(names, arrays), strict=True))
        for name, index in value_names.items():
            if name in results:
                want = values[index].detach().numpy()
                absolute, relative = difference(results[name], want)
                found.append(
                    Difference(name, batch, tuple(want.shape), absolute, relative, name in outputs)
                )
    return Verification(tuple(found), tuple(sizes), tolerance)
