"""Records of a training for machines: JSON lines and TensorBoard.

An event is a mapping with ``event`` ("display", "test", "snapshot" or "clip") and ``iteration``;
display adds ``loss`` (averaged over average_loss iterations), ``lr`` and ``outputs``, test adds
``net``, ``outputs`` and, with test_compute_loss, ``loss``, snapshot adds ``path``, clip the new
``ranks`` by layer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from torch import Tensor

from caffe_bridge.errors import BackendError
from caffe_bridge.net import Built
from caffe_bridge.strict_json import strict_json

#: Receives every event.
Listener = Callable[[Mapping[str, Any]], None]


def output_lines(built: Built, fetch: Callable[[str], Tensor]) -> list[str]:
    """A net's outputs as Caffe prints them: ``0: loss = 0.5 (* 1 = 0.5 loss)``."""
    weights = built.loss_weights()
    lines: list[str] = []
    for value in built.graph.outputs:
        for number in fetch(value.blob).reshape(-1).tolist():
            weight = weights.get(value.index, 0.0)
            loss = f" (* {weight:g} = {weight * number:g} loss)" if weight else ""
            lines.append(f"{len(lines)}: {value.blob} = {number:g}{loss}")
    return lines


def named_numbers(blobs: Mapping[str, Tensor]) -> dict[str, float]:
    """The numbers of blobs by name; those of a vector are ``name[i]``."""
    numbers: dict[str, float] = {}
    for name, blob in blobs.items():
        values = blob.reshape(-1).tolist()
        keys = [name] if len(values) == 1 else [f"{name}[{i}]" for i in range(len(values))]
        numbers.update(zip(keys, values, strict=True))
    return numbers


class JsonLines:
    """Writes one JSON object a line and flushes it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Write an event."""
        self.stream.write(json.dumps(strict_json(event)) + "\n")
        self.stream.flush()


class TensorBoard:
    """Writes ``train/loss``, ``train/lr``, ``train/OUTPUT``, ``test0/OUTPUT`` and ``ranks/PAIR``.

    Args:
        folder: where the event files go.

    Raises:
        BackendError: the tensorboard package is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise BackendError(
                "TensorBoard logs need the tensorboard package; install caffe-bridge[tensorboard], "
                "or write JSON lines instead."
            ) from error
        self.writer: Any = SummaryWriter(os.fspath(folder))

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Write an event's numbers; snapshots have none."""
        group = f"test{event['net']}" if event["event"] == "test" else "train"
        numbers = {name: event[name] for name in ("loss", "lr") if name in event}
        if event["event"] == "clip":
            group, numbers = "ranks", event["ranks"]
        for name, value in {**event.get("outputs", {}), **numbers}.items():
            self.writer.add_scalar(f"{group}/{name}", value, event["iteration"])

    def close(self) -> None:
        """Write what is still in memory."""
        self.writer.close()
