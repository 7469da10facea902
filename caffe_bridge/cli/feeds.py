"""Batches of inputs from whatever a command is given: data layers, an npz, a folder of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from caffe_bridge.cli.run import PICTURES, read_array
from caffe_bridge.errors import BlobError, DataError
from caffe_bridge.files import require_file

Feed = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


def source_feeds(
    source: str, shapes: Shapes, batches: int, phase: str = "TEST", label: str = "label",
    mean: list[float] | None = None, scale: float = 1.0,
) -> list[Feed]:  # fmt: skip
    """Batches for the named inputs, with labels where the source has them.

    Args:
        source: a prototxt, whose data layers are read; an npz with an array for each input; or a
            folder of pictures, for nets with one input.
        shapes: shape of each input; its first axis is the batch size (npz and pictures).
        batches: most batches to take; 0: all of an npz or folder, 10 of data layers.
        phase: whose data layers are read.
        label: name of the labels.
        mean: per-channel BGR mean that is taken off pictures.
        scale: factor of pictures after that.

    Raises:
        BridgeError: the source cannot be read or gives other inputs.
    """
    path = Path(source)
    if path.is_dir():
        return _pictures(path, shapes, batches, mean or [], scale)
    if path.suffix == ".npz":
        return _npz(source, shapes, batches, label)
    require_file(source, "prototxt or npz")
    return _layers(source, shapes, batches or 10, phase)


def _layers(source: str, shapes: Shapes, batches: int, phase: str) -> list[Feed]:
    from caffe_bridge.compress.calibration import data_feeds
    from caffe_bridge.graph import load_net
    from caffe_bridge.layers.registry import layer_class
    from caffe_bridge.net import Net

    spec = load_net(source, phase)
    layers = tuple(x for x in spec.layers if not x.bottoms and layer_class(x).has_source)
    made = {top for layer in layers for top in layer.tops}
    missing = [name for name in shapes if name not in made]
    if missing:
        raise BlobError(
            f"{source}: its data layers of phase {phase} make {', '.join(sorted(made)) or 'none'}, "
            f"not {', '.join(missing)}; give a prototxt whose data has the names of the inputs."
        )
    feeds = data_feeds(Net(spec.with_layers(layers)), batches)
    return [{name: values.numpy() for name, values in feed.items()} for feed in feeds]


def _npz(source: str, shapes: Shapes, batches: int, label: str) -> list[Feed]:
    try:
        with np.load(require_file(source, "npz"), allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name], np.float32) for name in stored.files}
    except (ValueError, OSError, AttributeError) as error:
        raise BlobError(f"{source}: is no npz file of arrays ({error}).") from error
    for name, shape in shapes.items():
        if name not in arrays or arrays[name].shape[1:] != tuple(shape[1:]):
            found = arrays[name].shape if name in arrays else "none"
            raise BlobError(
                f"{source}: needs an array '{name}' with items of shape {tuple(shape[1:])}, found "
                f"{found}."
            )
    names = [*shapes, *([label] if label in arrays else [])]
    count = min(len(arrays[name]) for name in names)
    return _batches({name: arrays[name][:count] for name in names}, shapes, batches, source)


def _pictures(
    folder: Path, shapes: Shapes, batches: int, mean: list[float], scale: float
) -> list[Feed]:
    if len(shapes) != 1:
        raise DataError(
            f"{folder}: pictures fill one input, the net has {', '.join(shapes)}; give an npz."
        )
    ((name, shape),) = shapes.items()
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES)
    files = files[: batches * shape[0]] if batches else files
    items = [read_array(str(p), shape, mean, scale) for p in files]
    stacked = np.concatenate(items) if items else np.zeros((0, *shape[1:]), np.float32)
    return _batches({name: stacked}, shapes, batches, str(folder))


def _batches(arrays: Feed, shapes: Shapes, batches: int, source: str) -> list[Feed]:
    """Whole batches, or all items as one smaller batch."""
    size = next(iter(shapes.values()))[0]
    items = min(len(values) for values in arrays.values())
    if not items:
        raise DataError(f"{source}: holds no items; give more data.")
    count = max(1, items // size)
    count = min(count, batches) if batches else count
    return [
        {name: values[i * size : (i + 1) * size] for name, values in arrays.items()}
        for i in range(count)
    ]  # fmt: skip
