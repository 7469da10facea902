"""Every ONNX form of the layers that have several, timed in onnxruntime, interleaved, no spinning.

The table says which form a target takes when nothing is measured (``default``) and which one is
the fastest here (``best``); a default that costs more than 5 % over the best is marked.

Example:
    python benchmarks/forms.py --threads 2 --json forms.json
    python benchmarks/forms.py --only LRN --clock cpu --quick
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from caffe_bridge.bench import Schedule, machine_info
from caffe_bridge.bench.forms import CLOSE, SCHEDULE, measure_forms
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net

QUICK = Schedule(
    min_runs=6, min_seconds=0.0, warmup_runs=2, warmup_seconds=0.0, block=3, max_seconds=1.0
)
#: Share of the best form's time that a default may cost above it.
SLACK = 0.05


def convolution(outputs: int, kernel: int, more: str) -> str:
    """Text of a convolution_param."""
    return (
        f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} {more} "
        'weight_filler { type: "gaussian" std: 0.1 } }'
    )


def average(kernel: int, stride: int) -> str:
    """Text of a pooling_param for a padded average."""
    return (
        f"pooling_param {{ pool: AVE kernel_size: {kernel} stride: {stride} pad: {kernel // 2} }}"
    )


WITHIN = "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 }"
#: Name, type, bottom shape without batch, parameters.
CASES: list[tuple[str, str, tuple[int, ...], str]] = [
    ("AlexNet norm1", "LRN", (96, 55, 55), "lrn_param { alpha: 1e-4 }"),
    ("AlexNet norm2", "LRN", (256, 27, 27), "lrn_param { alpha: 1e-4 }"),
    ("GoogLeNet norm1", "LRN", (64, 56, 56), "lrn_param { alpha: 1e-4 }"),
    ("GoogLeNet norm2", "LRN", (192, 56, 56), "lrn_param { alpha: 1e-4 }"),
    ("beta 0.6", "LRN", (96, 27, 27), "lrn_param { alpha: 1e-4 beta: 0.6 }"),
    ("cifar10_full norm1", "LRN", (32, 16, 16), WITHIN),
    ("maps of 21 classes", "Softmax", (21, 64, 64), ""),
    ("SSD, 2 classes", "Softmax", (2, 24, 24), ""),
    ("per channel 64", "PReLU", (64, 56, 56), ""),
    ("per channel 256", "PReLU", (256, 14, 14), ""),
    ("per channel 28 (MTCNN)", "PReLU", (28, 22, 22), ""),
    ("one slope", "PReLU", (64, 56, 56), "prelu_param { channel_shared: true }"),
    ("bilinear 2x, 21 groups", "Deconvolution", (21, 32, 32),
     convolution(21, 4, "stride: 2 pad: 1 group: 21 bias_term: false")),
    ("bilinear 8x, 21 groups", "Deconvolution", (21, 16, 16),
     convolution(21, 16, "stride: 8 pad: 4 group: 21 bias_term: false")),
    ("bilinear 2x, 64 groups", "Deconvolution", (64, 28, 28),
     convolution(64, 4, "stride: 2 pad: 1 group: 64 bias_term: false")),
    ("bilinear 4x, 64 groups", "Deconvolution", (64, 14, 14),
     convolution(64, 8, "stride: 4 pad: 2 group: 64 bias_term: false")),
    ("2x2 stride 2", "Deconvolution", (64, 28, 28), convolution(32, 2, "stride: 2")),
    ("4x4 stride 2, dense", "Deconvolution", (64, 14, 14), convolution(32, 4, "stride: 2 pad: 1")),
    ("3x3 stride 1", "Deconvolution", (64, 28, 28), convolution(64, 3, "pad: 1")),
    ("3x3 stride 1", "Pooling", (192, 28, 28), average(3, 1)),
    ("3x3 stride 2", "Pooling", (64, 55, 55), average(3, 2)),
    ("4 to 4 a group (ResNeXt)", "Convolution", (128, 28, 28),
     convolution(128, 3, "pad: 1 group: 32")),
    ("8 to 8 a group", "Convolution", (128, 28, 28), convolution(128, 3, "pad: 1 group: 16")),
    ("24 to 32 a group", "Convolution", (96, 27, 27), convolution(128, 3, "pad: 1 group: 4")),
    ("1x1, 24 to 24 (ShuffleNet)", "Convolution", (72, 28, 28), convolution(72, 1, "group: 3")),
    ("AlexNet fc6", "InnerProduct", (256, 6, 6), "inner_product_param { num_output: 4096 }"),
    ("AlexNet fc8", "InnerProduct", (4096,), "inner_product_param { num_output: 1000 }"),
]  # fmt: skip


def between(kind: str, shape: tuple[int, ...], more: str, batch: int) -> Net:
    """A net in which the layer has neighbours, so that it is measured between neighbours."""
    dims = " ".join(f"dim: {n}" for n in (batch, *shape))
    text = f'layer {{ name: "in" type: "Input" top: "in" input_param {{ shape {{ {dims} }} }} }}\n'
    text += 'layer { name: "relu" type: "ReLU" bottom: "in" top: "x" }\n'
    text += f'layer {{ name: "l" type: "{kind}" bottom: "x" top: "y" {more} }}\n'
    text += 'layer { name: "end" type: "ReLU" bottom: "y" top: "z" }\n'
    return Net(parse_net(text), seed=0).eval()


def main(argv: list[str] | None = None) -> int:
    """Measure, print and perhaps write JSON; returns 1 when a form differs from the portable."""
    parser = argparse.ArgumentParser(description="ONNX forms of layers against each other.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--only", help="type of the layers to measure")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--quick", action="store_true", help="few runs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    clock = time.perf_counter_ns if args.clock == "wall" else time.process_time_ns
    print("| layer | type | shape | ms by form | default of ort-cpu | best | worst difference |")
    print("|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for name, kind, shape, more in CASES:
        if args.only not in (None, kind):
            continue
        net = between(kind, shape, more, args.batch)
        (found,) = measure_forms(
            net, args.threads, args.batch, QUICK if args.quick else SCHEDULE, clock
        )
        default = net.layer("l").form_for("ort-cpu", [found.shape])
        over = found.ms[default] / min(found.ms.values()) - 1
        rows.append({**asdict(found), "layer": name, "default": default, "over": over})
        times = ", ".join(f"{form} {value:.3f}" for form, value in found.ms.items())
        late = f" (+{over:.0%})" if over > SLACK else ""
        size = "x".join(map(str, found.shape))
        print(
            f"| {name} | {kind} | {size} | {times} | {default}{late} | {found.best} "
            f"| {max(found.differences.values()):.1e} |", flush=True,
        )  # fmt: skip
    if args.json:
        facts = {"machine": asdict(machine_info()), "threads": args.threads, "batch": args.batch,
                 "clock": args.clock, "quick": args.quick, "layers": rows}  # fmt: skip
        args.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return int(any(value > CLOSE for row in rows for value in row["differences"].values()))


if __name__ == "__main__":
    sys.exit(main())
