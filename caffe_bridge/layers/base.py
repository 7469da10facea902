"""The layer contract: everything about a layer type in one class.

A layer states its arity, the shapes of its tops, its learnable blobs, its forward pass in torch
(autograd gives the gradient, an own ``autograd.Function`` where Caffe's differs), its ONNX nodes
and its cost. It never sees protobuf or onnx.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from caffe_bridge.errors import ExportError, ShapeError
from caffe_bridge.graph import LayerSpec, Shape
from caffe_bridge.layers.fillers import fill, zeros
from caffe_bridge.schema import Record, StoredBlob


@dataclass(frozen=True)
class Arity:
    """How many bottoms or tops a layer may have."""

    least: int
    most: int | None

    def allows(self, count: int) -> bool:
        """Whether the count is within bounds."""
        return self.least <= count and (self.most is None or count <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"at least {self.least}"
        return str(self.least) if self.least == self.most else f"{self.least} to {self.most}"


def exactly(count: int) -> Arity:
    """Just this many."""
    return Arity(count, count)


def between(least: int, most: int) -> Arity:
    """From ``least`` to ``most``."""
    return Arity(least, most)


def at_least(count: int) -> Arity:
    """This many or more."""
    return Arity(count, None)


@dataclass(frozen=True)
class BlobSpec:
    """A learnable blob: Caffe shape, filler (FillerParameter or None = zeros) and role.

    Roles: ``weight``, ``bias``, ``statistic`` (running state that no gradient reaches).
    """

    shape: Shape
    filler: Record | None = None
    role: str = "weight"


class Emitter(Protocol):
    """What a layer may ask of the ONNX writer. Names of values are strings; no onnx types."""

    opset: int
    #: One of the current layer's :meth:`Layer.forms`, or "" when it has none to choose from.
    form: str

    def op(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: int | Sequence[str] = 1,
        **attributes: Any,
    ) -> list[str]:
        """Add a node; ``outputs`` are names, or how many fresh names to make. Returns the names."""

    def constant(self, value: np.ndarray, hint: str) -> str:
        """An initializer of the current layer with this value; returns its name."""

    def blob(self, index: int) -> str:
        """The initializer that holds learnable blob ``index`` of the current layer."""

    def reduce(
        self, op_type: str, source: str, axes: Sequence[int], target: str | None = None,
        keepdims: bool = True,
    ) -> str:  # fmt: skip
        """A Reduce* node whose axes are an attribute or an input as the opset wants."""

    def alias(self, source: str, target: str) -> None:
        """Let ``target`` be another name of ``source`` (no node unless it is a graph output)."""

    def shape(self, value: str) -> Shape:
        """Shape of a bottom or top value at the example batch size."""

    def reshape(self, source: str, shape: Sequence[int], target: str | None = None) -> str:
        """Reshape to ``shape``; an axis 0 equal to the batch size stays dynamic (0 copies it)."""


class Layer(nn.Module):
    """Base of all layer types.

    Subclasses set the class variables and override :meth:`infer`, :meth:`forward`, :meth:`emit`
    and, when they have learnable blobs, :meth:`blob_specs` and :meth:`macs`.

    Class variables:
        bottoms, tops: arity, checked with the layer's name in the message.
        param_field: the parameter message that arrives as ``self.p`` (Caffe's defaults, ``has``).
        is_loss: the first top has loss_weight 1 unless stated.
        is_input: the tops are fed by the caller or a data source, not computed.
        has_source: an input whose forward pass reads a batch when the caller feeds none.
        open_axis: the axis of the tops whose size depends on the values, if any.
        auto_tops: anonymous tops are added up to ``tops.least`` (losses without a top).
        differentiable: False when no gradient flows through (Accuracy, ArgMax).
        no_gradient_bottoms: indices of bottoms that get no gradient (labels).
        carried: attributes (None, number, tensors) that a forward pass hands to the next one.
        force_backward_bottoms: False where Caffe's AllowForceBackward says no (labels).
    """

    type_name: ClassVar[str] = ""
    bottoms: ClassVar[Arity] = exactly(1)
    tops: ClassVar[Arity] = exactly(1)
    param_field: ClassVar[str] = ""
    is_loss: ClassVar[bool] = False
    is_input: ClassVar[bool] = False
    has_source: ClassVar[bool] = False
    open_axis: ClassVar[int | None] = None
    auto_tops: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    no_gradient_bottoms: ClassVar[tuple[int, ...]] = ()
    carried: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: LayerSpec, phase: str = "TEST") -> None:
        super().__init__()
        self.spec = spec
        self.phase = spec.record.phase if spec.record.has("phase") else phase
        self.p: Record = getattr(spec.record, self.param_field) if self.param_field else spec.record
        self.blobs = nn.ParameterList()
        for what, arity, names in (
            ("bottoms", self.bottoms, spec.bottoms), ("tops", self.tops, spec.tops),
        ):  # fmt: skip
            if not arity.allows(len(names)):
                raise ShapeError(
                    f"{spec.label()}: takes {arity} {what}, found {len(names)}"
                    f"{': ' + ', '.join(names) if names else ''}."
                )
        self.configure()

    @classmethod
    def resolve(cls, spec: LayerSpec) -> type[Layer]:
        """The class that runs a layer of this type; another one where a parameter names it."""
        return cls

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.spec.name

    @property
    def train_phase(self) -> bool:
        """Whether the layer runs in the TRAIN phase."""
        return self.phase == "TRAIN"

    def fail(self, reason: str) -> NoReturn:
        """Raise ShapeError with the layer's name in front."""
        raise ShapeError(f"{self.spec.label()}: {reason}")

    def refuse(self, reason: str) -> NoReturn:
        """Raise ExportError with the layer's name in front."""
        raise ExportError(f"{self.spec.label()}: {reason}")

    def axis(self, value: int, shape: Shape, name: str = "axis") -> int:
        """A possibly negative axis as a non-negative one, checked against the shape."""
        found = value + len(shape) if value < 0 else value
        if not 0 <= found < len(shape):
            self.fail(f"{name} {value} is outside bottom shape {tuple(shape)}.")
        return found

    def configure(self) -> None:
        """Read and check parameters that need no shapes. Called once by the constructor."""

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Shapes of the tops from those of the bottoms.

        Raises:
            ShapeError: the bottoms break the layer's rule.
        """
        return [tuple(shapes[0])] * len(self.spec.tops)

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """Learnable blobs for these bottom shapes."""
        return []

    def setup(
        self,
        shapes: Sequence[Shape],
        generator: torch.Generator | None = None,
        fill_blobs: bool = True,
    ) -> None:
        """Create the learnable blobs; fill them unless their values come from elsewhere."""
        specs = self.blob_specs(shapes)
        self.blobs.extend(nn.Parameter(zeros(blob.shape)) for blob in specs)
        if fill_blobs:
            for blob, value in zip(specs, self.blobs, strict=True):
                self.fill_blob(blob, value, generator)

    def fill_blob(
        self, blob: BlobSpec, value: nn.Parameter, generator: torch.Generator | None = None
    ) -> None:
        """Give a blob its filler's values; one without filler stays zero."""
        if blob.filler is not None:
            fill(value.detach(), blob.filler, generator, self.spec.label())

    def reset_state(self) -> None:
        """Forget what earlier forward passes left behind; only recurrent layers keep anything."""

    def adapt_blobs(self, stored: list[StoredBlob | None]) -> list[StoredBlob | None]:
        """Stored blobs of a dialect in this class's order; override where forks differ."""
        return stored

    def forms(self, shapes: Sequence[Shape]) -> tuple[str, ...]:
        """Names of equivalent ONNX forms, the portable one first; () when there is no choice."""
        return ()

    def form_for(self, target: str, shapes: Sequence[Shape]) -> str:
        """The form that ``target`` takes when nothing was measured."""
        return next(iter(self.forms(shapes)), "")

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """State the layer in ONNX nodes that make ``tops`` from ``bottoms``, in ``e.form``.

        Raises:
            ExportError: standard ONNX cannot express these parameters.
        """
        self.refuse("has no ONNX form; export a net without it (a deploy net).")

    def macs(self, shapes: Sequence[Shape]) -> int | None:
        """Multiply-accumulates of one forward pass; 0 = negligible, None = unknown."""
        return 0

    def run(self, bottoms: Sequence[Tensor]) -> list[Tensor]:
        """Forward with a list in and a list out."""
        result = self(*bottoms)
        return [result] if isinstance(result, Tensor) else list(result)
