"""A small net with real numbers that trains in a millisecond, and solvers for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from caffe_bridge.log import Sink, silent
from caffe_bridge.schema import Record, parse_text
from caffe_bridge.solver import Solver

NET = """
name: 'tiny'
layer {{ name: 'data' type: 'HDF5Data' top: 'x' top: 't'
         hdf5_data_param {{ source: '{source}' batch_size: 6 }} }}
layer {{ name: 'ip1' type: 'InnerProduct' bottom: 'x' top: 'h'
         param {{ lr_mult: 1 decay_mult: 1 force_mult: 1 }} param {{ lr_mult: 2 decay_mult: 0 }}
         inner_product_param {{ num_output: 4 weight_filler {{ type: 'xavier' }}
                               bias_filler {{ type: 'constant' value: 0.1 }} }} }}
layer {{ name: 'act' type: 'TanH' bottom: 'h' top: 'h' }}
layer {{ name: 'ip2' type: 'InnerProduct' bottom: 'h' top: 'y'
         param {{ lr_mult: 0.5 decay_mult: 3 }} param {{ lr_mult: 0 }}
         inner_product_param {{ num_output: 2 weight_filler {{ type: 'xavier' }} }} }}
layer {{ name: 'loss' type: 'EuclideanLoss' bottom: 'y' bottom: 't' top: 'loss' }}
layer {{ name: 'size' type: 'Reduction' bottom: 'y' top: 'size' include {{ phase: TEST }}
         reduction_param {{ operation: SUMSQ }} }}
"""

Gradients = Callable[[int], list[np.ndarray]]


def write_net(folder: Path, rows: int = 6) -> Path:
    """The net's prototxt and data below ``folder``; ``rows`` samples, six a batch."""
    rng = np.random.default_rng(3)
    with h5py.File(folder / "d.h5", "w") as file:
        file["x"] = rng.standard_normal((rows, 3)).astype(np.float32)
        file["t"] = rng.standard_normal((rows, 2)).astype(np.float32)
    (folder / "list.txt").write_text(f"{folder / 'd.h5'}\n")
    path = folder / "net.prototxt"
    path.write_text(NET.format(source=folder / "list.txt"))
    return path


def parameters(folder: Path, text: str = "", rows: int = 6) -> Record:
    """SolverParameter for the tiny net with the given fields added."""
    net = write_net(folder, rows)
    common = f"net: '{net}' snapshot_prefix: '{folder / 'snap'}' "
    common += "" if "random_seed" in text else "random_seed: 5 "
    policy = "" if "lr_policy" in text else "lr_policy: 'fixed' "
    rate = "" if "base_lr" in text else "base_lr: 0.1 "
    return parse_text(common + policy + rate + text, "SolverParameter", "solver.prototxt")


def solver(folder: Path, text: str = "", log: Sink = silent, rows: int = 6, **more: Any) -> Solver:
    """A solver for the tiny net."""
    return Solver(parameters(folder, text, rows), log=log, **more)


def weights(trained: Solver) -> list[np.ndarray]:
    """Copies of all learnable blobs."""
    return [b.value.detach().numpy().copy() for b in trained.net.learnable]


def scripted(trained: Solver, gradients: Gradients) -> None:
    """Replace the computed gradients of every iteration by given ones."""

    def replace(engine: Solver) -> None:
        for blob, given in zip(engine.net.learnable, gradients(engine.iteration), strict=True):
            blob.value.grad = torch.from_numpy(given.astype(np.float32))

    trained.on_gradients.append(replace)


def random_gradients(shapes: list[tuple[int, ...]], seed: int = 7) -> Gradients:
    """Seeded normal gradients, different in each iteration."""

    def at(iteration: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed + iteration)
        return [rng.standard_normal(s).astype(np.float32) for s in shapes]

    return at
