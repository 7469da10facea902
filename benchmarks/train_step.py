"""Milliseconds of a training step: ours without and with force, next to plain torch.optim.SGD.

    python benchmarks/train_step.py [--nets lenet,alexnet] [--threads 2] [--rounds 15]
        [--seconds 15] [--clock cpu] [--device cpu] [--cuda-graph] [--json FILE]

Every variant trains one and the same net on one fixed random batch, in a drawn order within each
round, so that neither a busy machine nor a neighbour in the order favours one; medians are
compared. ``plain`` is zero_grad, forward, backward and ``torch.optim.SGD.step`` with the recipe's
momentum, decay and multipliers. Both memory layouts are measured; the ratio is that of each side's
faster one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caffe_bridge.graph import NetSpec
from caffe_bridge.net import Runtime, RuntimeNet, with_inputs
from caffe_bridge.solver import Solver, read_solver

REPO = Path(__file__).resolve().parents[1]
#: Recipe -> batch, image shape, classes.
NETS = {
    "lenet": (64, (1, 28, 28), 10),
    "cifar10_full": (100, (3, 32, 32), 10),
    "cifar10_resnet20": (128, (3, 32, 32), 10),
    "alexnet": (16, (3, 227, 227), 1000),
}
FORCES = {"ours": "", "Constant": "Constant", "Degradation": "Degradation"}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
#: Small enough to keep weights finite over the few steps; its size has no influence on time.
FORCE_DECAY = 1e-7


class FixedBatch(RuntimeNet):
    """A net that sees the same batch in every pass."""

    def __init__(self, spec: NetSpec, runtime: Runtime, batch: dict[str, Tensor]) -> None:
        super().__init__(spec, runtime)
        self.batch = super().read(batch)

    def read(self, feed: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The batch; nothing is copied."""
        return self.batch


def make_solver(name: str, runtime: Runtime) -> Solver:
    """The recipe's solver on a fixed random batch, without tests, display and snapshots."""
    batch, image, classes = NETS[name]
    record = read_solver(REPO / "solvers" / name / "solver.prototxt")
    record.net = str(REPO / "solvers" / name / "train_test.prototxt")
    for field in ("test_iter", "test_interval", "display", "snapshot"):
        record.clear(field)
    forced = read_solver(REPO / "solvers" / name / "solver_force.prototxt")
    record.force_groups = forced.force_groups
    record.base_lr, record.random_seed, record.force_iter = 1e-4, 1, -1
    drawn = torch.Generator().manual_seed(0)
    fed = {
        "data": torch.randn(batch, *image, generator=drawn),
        "label": torch.randint(0, classes, (batch,), generator=drawn).float(),
    }
    shapes = {"data": (batch, *image), "label": (batch,)}
    return Solver(record, make_net=lambda s: FixedBatch(with_inputs(s, shapes), runtime, fed))


def plain_step(solver: Solver) -> Callable[[], object]:
    """A step as a torch user writes it, on the solver's net."""
    net, param = solver.net, solver.param
    groups = [
        {"params": [b.value], "lr": param.base_lr * b.lr_mult,
         "weight_decay": param.weight_decay * b.decay_mult}
        for b in net.learnable if b.value.requires_grad
    ]  # fmt: skip
    optimizer = torch.optim.SGD(groups, lr=param.base_lr, momentum=param.momentum)

    def step() -> None:
        optimizer.zero_grad(set_to_none=not getattr(net, "static_gradients", False))
        net.forward_backward()
        optimizer.step()

    return step


def timed(step: Callable[[], object], cuda: bool, clock: Callable[[], float]) -> float:
    """Milliseconds of one step."""
    if cuda:
        torch.cuda.synchronize()
    start = clock()
    step()
    if cuda:
        torch.cuda.synchronize()
    return (clock() - start) * 1e3


def measure(
    name: str, runtime: Runtime, rounds: int, seconds: float, clock: Callable[[], float]
) -> dict[str, float]:
    """Median milliseconds of plain torch and of each of our variants, and force's own share."""
    solver = make_solver(name, runtime)
    if not any(blob.force_mult for blob in solver.net.learnable):
        raise SystemExit(f"{name}: no blob has a force_mult.")
    plain = plain_step(solver)

    def ours(force: str) -> None:
        solver.param.force_decay = FORCE_DECAY if force else 0.0
        solver.param.force_type = force or "Degradation"
        solver.step(1)

    variants: dict[str, Callable[[], object]] = {"plain": plain}
    for label, force in FORCES.items():
        variants[label] = partial(ours, force)
    cuda = runtime.device != "cpu"
    for step in variants.values():
        step()
    times: dict[str, list[float]] = {label: [] for label in variants}
    labels = list(variants)
    order, number = random.Random(0), 0
    end = time.perf_counter() + seconds
    while number < rounds or time.perf_counter() < end:
        number += 1
        for label in order.sample(labels, len(labels)):
            times[label].append(timed(variants[label], cuda, clock))
    result = {label: statistics.median(values) for label, values in times.items()}
    for label in ("ours", "Constant", "Degradation"):
        base = times["plain"] if label == "ours" else times["ours"]
        pairs = [mine / other for mine, other in zip(times[label], base, strict=True)]
        result[f"{label} ratio"] = statistics.median(pairs)
    return result


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default=",".join(NETS), help="recipes, separated by commas")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=15, help="at least, for each layout")
    parser.add_argument("--seconds", type=float, default=15.0, help="at least, for each layout")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, "
                        "for one thread on a busy machine")  # fmt: skip
    parser.add_argument("--cuda-graph", action="store_true")
    parser.add_argument("--json", help="write all numbers to this file")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(), "threads": options.threads,
            "torch": torch.__version__, "load": os.getloadavg()[0], "device": options.device,
        }
    }  # fmt: skip
    print(
        f"{options.threads} threads, torch {torch.__version__}, {options.device}, "
        f"{options.clock} time, load {os.getloadavg()[0]:.1f}, {options.rounds} rounds and "
        f"{options.seconds:g} s at least"
    )
    print(
        "ms per step                  plain    ours  Constant  Degradation | ours/plain  force adds"
    )
    for name in options.nets.split(","):
        both = {}
        for layout, last in (("NCHW", False), ("NHWC", True)):
            runtime = Runtime(options.device, channels_last=last, cuda_graph=options.cuda_graph)
            runtime.prepare()
            row = both[layout] = measure(
                name, runtime, options.rounds, options.seconds, CLOCKS[options.clock]
            )
            print(f"{name + ' (' + str(NETS[name][0]) + ') ' + layout:26s}"
                  f"{row['plain']:8.1f}{row['ours']:8.1f}{row['Constant']:10.1f}"
                  f"{row['Degradation']:13.1f} | {row['ours ratio']:10.3f}  "
                  f"{row['Constant ratio'] - 1:+.1%} {row['Degradation ratio'] - 1:+.1%}",
                  flush=True)  # fmt: skip
        best = min(r["ours"] for r in both.values()) / min(r["plain"] for r in both.values())
        print(f"{name}: our faster layout / torch's faster layout = {best:.3f}")
        found[name] = {**both, "best ratio": best, "load": os.getloadavg()[0]}
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
