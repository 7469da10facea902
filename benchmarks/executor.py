"""Forward pass of AlexNet, batch 10: pycaffe's layer-by-layer executor against the whole graph.

Medians of interleaved passes in one run. Target: at most 1.25 times the whole graph.

Example:
    python benchmarks/executor.py --threads 2 --rounds 10
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from caffe_bridge import pycaffe
from caffe_bridge.net import Net

TARGET = 1.25
RECIPE = Path(__file__).resolve().parents[1] / "solvers" / "alexnet" / "deploy.prototxt"


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns 1 when the target is missed."""
    parser = argparse.ArgumentParser(description="Layer-by-layer against whole-graph forward.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--hold", action="store_true", help="hold an array of every blob")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    whole = Net(RECIPE, seed=0)
    blobs = pycaffe.Net(RECIPE, pycaffe.TEST, seed=0)
    data = torch.randn(10, 3, 227, 227, generator=torch.Generator().manual_seed(0))
    blobs.blobs["data"].reshape(*data.shape)
    blobs.blobs["data"].data[...] = data.numpy()
    held = [blob.data for blob in blobs.blobs.values()] if args.hold else []
    times: dict[str, list[float]] = {"layer by layer": [], "whole graph": []}
    for _ in range(args.rounds + 2):
        started = time.perf_counter()
        blobs.forward()
        middle = time.perf_counter()
        whole.evaluate({"data": data})
        times["layer by layer"].append(middle - started)
        times["whole graph"].append(time.perf_counter() - middle)
    medians = {name: float(np.median(values[2:])) * 1000 for name, values in times.items()}
    ratio = medians["layer by layer"] / medians["whole graph"]
    for name, value in medians.items():
        print(f"{name}: {value:.1f} ms")
    print(
        f"ratio {ratio:.3f} (target {TARGET}), {len(held)} arrays held, {args.threads} thread(s), "
        f"torch {torch.__version__}"
    )
    return int(ratio > TARGET)


if __name__ == "__main__":
    sys.exit(main())
