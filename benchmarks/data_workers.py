"""Pictures a second that data layers deliver: in a thread and in 1, 2, ... worker processes.

    python benchmarks/data_workers.py [--side 256] [--crop 227] [--batch 64] [--batches 20]
        [--count 512] [--workers 0,1,2,4] [--rounds 5] [--busy 0] [--json FILE]

Random smooth pictures are written once, as JPEG files with a list, as an LMDB of encoded and as one
of raw datums. Every layer is read by every number of workers in turns within each round, so that a
busy machine disturbs all alike; medians are compared. ``--busy`` milliseconds of sums between
two batches stand for the net's own work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from caffe_bridge.data import (
    DatabaseSource,
    ImageListSource,
    Prefetched,
    Source,
    database,
    encode_datum,
    write_lmdb,
)
from caffe_bridge.graph import LayerSpec, parse_net
from caffe_bridge.schema import Record, encode

KINDS = ("images", "encoded", "raw")


def picture(index: int, side: int) -> np.ndarray:
    """A smooth random picture (side, side, 3)."""
    small = np.random.default_rng(index).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)


def records(count: int, side: int, encoded: bool) -> Iterator[tuple[bytes, bytes]]:
    """Keys and Datums."""
    for index in range(count):
        image = picture(index, side)
        if encoded:
            data = cv2.imencode(".jpg", image)[1].tobytes()
            yield b"%08d" % index, encode(Record("Datum", data=data, encoded=True, label=index))
        else:
            yield b"%08d" % index, encode_datum(image.transpose(2, 0, 1), index)


def write(folder: Path, count: int, side: int) -> None:
    """All three kinds of data."""
    for index in range(count):
        cv2.imwrite(f"{folder}/{index}.jpg", picture(index, side))
    lines = "".join(f"{folder}/{index}.jpg {index}\n" for index in range(count))
    (folder / "images").write_text(lines)
    for kind in ("encoded", "raw"):
        write_lmdb(folder / kind, records(count, side, kind == "encoded"))


def source(folder: Path, kind: str, batch: int, crop: int) -> Source:
    """A source of one kind."""
    param = f'source: "{folder}/{kind}" batch_size: {batch}'
    name, extra = ("image", "") if kind == "images" else ("", "backend: LMDB")
    layer = f"{name}_data_param" if name else "data_param"
    spec: LayerSpec = parse_net(
        f'layer {{ name: "{kind}" type: "Data" top: "x" top: "y" {layer} {{ {param} {extra} }} '
        f"transform_param {{ crop_size: {crop} mirror: true }} }}"
    ).layers[0]
    if kind == "images":
        return ImageListSource(spec, "TRAIN")
    return DatabaseSource(spec, "TRAIN")


def rate(ahead: Prefetched, batch: int, batches: int, busy: float) -> float:
    """Pictures a second over some batches."""
    ahead.next(batch)
    begin = time.perf_counter()
    for _ in range(batches):
        ahead.next(batch)
        until = time.perf_counter() + busy / 1000
        while time.perf_counter() < until:
            np.ones(100_000).sum()
    return batch * batches / (time.perf_counter() - begin)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("side", 256), ("crop", 227), ("batch", 64), ("batches", 20),
                          ("count", 512), ("rounds", 5)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--workers", default="0,1,2,4")
    parser.add_argument("--busy", type=float, default=0)
    parser.add_argument("--json")
    given = parser.parse_args()
    database.CACHE_BYTES = 0
    numbers = [int(word) for word in given.workers.split(",")]
    found: dict[str, dict[int, list[float]]] = {k: {n: [] for n in numbers} for k in KINDS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, given.count, given.side)
        for _ in range(given.rounds):
            for kind in KINDS:
                for number in numbers:
                    ahead = Prefetched(source(folder, kind, given.batch, given.crop), 4, number)
                    speed = rate(ahead, given.batch, given.batches, given.busy)
                    found[kind][number].append(speed)
                    ahead.close()
    print(f"{'pictures/s':10}" + "".join(f"{n or 'thread':>10}" for n in numbers))
    for kind in KINDS:
        cells = "".join(f"{statistics.median(found[kind][n]):10.0f}" for n in numbers)
        print(f"{kind:10}{cells}")
    if given.json:
        about = {"machine": platform.platform(), "cores": len(os.sched_getaffinity(0)),
                 "settings": vars(given), "pictures_per_second": found}  # fmt: skip
        Path(given.json).write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
