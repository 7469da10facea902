"""Plain against data-aware low rank: accuracy at the same ranks, so at the same MACs.

    python benchmarks/data_aware.py mnist IDX_FOLDER deploy.prototxt lenet.caffemodel
    python benchmarks/data_aware.py cifar10 BATCHES deploy.prototxt convnet.caffemodel
    python benchmarks/data_aware.py images FOLDER deploy.prototxt squeezenet.caffemodel --size 227
        [--keep 0.7,0.5,0.35] [--calibrate 512] [--judge 0] [--json FILE]

mnist: pixel / 256. cifar10: planes minus the mean training picture. images: a Caffe image list
``list.txt`` in the folder; centre crop, BGR minus 104, 117, 123; every second picture calibrates,
the others judge. Convolutions are decomposed at ranks that keep a share of their multiply-
accumulates (smallest sum of squared weight errors); all methods get these ranks. No fine-tuning.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from caffe_bridge.compress import as_weights_of, rewrite
from caffe_bridge.compress.budget import budget_plan
from caffe_bridge.compress.calibration import Feed
from caffe_bridge.compress.data_aware import decompose_with_data
from caffe_bridge.compress.judge import judged_blob
from caffe_bridge.data.official import read_cifar10, read_mnist
from caffe_bridge.graph import read_net
from caffe_bridge.net import Net
from caffe_bridge.schema import load_weights

#: Name -> settings of decompose_with_data; None is filter PCA of the weights.
METHODS: dict[str, dict[str, bool] | None] = {
    "pca": None,
    "data, symmetric": {"asymmetric": False},
    "data, asymmetric": {"asymmetric": True},
    "data, asymmetric, ReLU": {"asymmetric": True, "relu": True},
}
Samples = tuple[np.ndarray, np.ndarray]


def pictures(folder: Path, size: int) -> Samples:
    """Centre crops and labels of an image list."""
    found, labels = [], []
    for line in (folder / "list.txt").read_text(encoding="utf-8").splitlines():
        name, label = line.rsplit(maxsplit=1)
        read = cv2.imread(str(folder / name))
        if read is None:
            raise SystemExit(f"{folder / name}: is no picture that OpenCV reads.")
        image = read.astype(np.float32)
        top, left = ((s - size) // 2 for s in image.shape[:2])
        crop = image[top : top + size, left : left + size] - (104, 117, 123)
        found.append(crop.transpose(2, 0, 1))
        labels.append(int(label))
    return np.stack(found).astype(np.float32), np.array(labels)


def samples(options: argparse.Namespace) -> tuple[Samples, Samples]:
    """What calibrates and what judges."""
    folder = Path(options.folder)
    if options.kind == "images":
        x, y = pictures(folder, options.size)
        return (x[::2], y[::2]), (x[1::2], y[1::2])
    read = read_mnist if options.kind == "mnist" else read_cifar10
    train, test = read(folder, "train"), read(folder, "test")
    if options.kind == "mnist":
        return tuple((p[0].astype(np.float32) / 256, p[1]) for p in (train, test))  # type: ignore[return-value]
    mean = train[0].mean(axis=0, dtype=np.float64).astype(np.float32)
    return tuple((p[0].astype(np.float32) - mean, p[1]) for p in (train, test))  # type: ignore[return-value]


def batches(blob: str, x: np.ndarray, size: int) -> list[Feed]:
    """Feeds of at most ``size`` items."""
    return [{blob: torch.from_numpy(x[i : i + size])} for i in range(0, len(x), size)]


@torch.no_grad()
def answers(net: Net, feeds: list[Feed], output: str) -> np.ndarray:
    """The class that a net gives each item."""
    found = []
    for feed in feeds:
        net(feed)
        values = net.values[output]
        found.append(values.reshape(len(values), -1).argmax(1).numpy())
    return np.concatenate(found)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["mnist", "cifar10", "images"])
    parser.add_argument("folder")
    parser.add_argument("net")
    parser.add_argument("weights")
    parser.add_argument("--size", type=int, default=227, help="side of a crop, for images")
    parser.add_argument("--keep", default="0.7,0.5,0.35", help="shares of MACs, by commas")
    parser.add_argument("--calibrate", type=int, default=512, help="items that calibrate")
    parser.add_argument("--judge", type=int, default=0, help="items that judge; 0: all")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", help="write all numbers to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    calibrating, judging = samples(options)
    random = np.random.default_rng(0)
    picked = random.permutation(len(calibrating[0]))[: options.calibrate]
    chosen = slice(None)
    if options.judge:
        chosen = random.permutation(len(judging[0]))[: options.judge]  # type: ignore[assignment]
    record, weights = read_net(options.net), load_weights(options.weights)
    whole = Net(record, weights=weights)
    blob = next(iter(whole.inputs))
    output = judged_blob(whole)
    feeds = batches(blob, calibrating[0][np.sort(picked)], options.batch)
    tests = batches(blob, judging[0][chosen], options.batch)
    labels = judging[1][chosen]
    dense = answers(whole, tests, output)
    accuracy = float((dense == labels).mean())
    rows: list[dict[str, Any]] = []
    print(f"{len(picked)} items calibrate, {len(labels)} judge; the whole net: {accuracy:.2%}\n")
    print("| MACs kept | ranks | method | accuracy | lost, points | agrees with the whole net |")
    print("|---|---|---|---|---|---|")
    for keep in (float(k) for k in options.keep.split(",")):
        plan = budget_plan(
            record, weights, unit="macs", keep=keep, methods=["pca"], include_fc=False
        )
        ranks = {e.layer: e.rank for e in plan.decomposed()}
        for method, settings in METHODS.items():
            start = time.perf_counter()
            if settings is None:
                net, blobs = rewrite(record, weights, plan)
            else:
                made = decompose_with_data(record, weights, plan, feeds, **settings)
                net, blobs = made.net, made.blobs
            seconds = time.perf_counter() - start
            found = answers(Net(net, weights=as_weights_of(blobs)), tests, output)
            right, same = float((found == labels).mean()), float((found == dense).mean())
            rows.append({
                "keep": keep, "ranks": ranks, "method": method, "seconds": seconds,
                "accuracy": right, "agreement": same,
            })  # fmt: skip
            shown = ", ".join(f"{v}" for v in ranks.values()) if len(ranks) < 8 else len(ranks)
            print(
                f"| {keep:.0%} | {shown} | {method} | {right:.2%} | "
                f"{(accuracy - right) * 100:.2f} | {same:.2%} |",
                flush=True,
            )
    if options.json:
        result = {
            "kind": options.kind, "calibrate": len(picked), "judge": len(labels),
            "accuracy": accuracy, "rows": rows,
        }  # fmt: skip
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
