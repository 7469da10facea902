"""Weights that are zero stay zero: through momentum, forces, resumes, and in test nets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.schema import parse_text
from caffe_bridge.solver import Solver
from caffe_bridge.solver.resume import resume
from caffe_bridge.solver.updates import RULES

NET = """
layer { name: "data" type: "DummyData" top: "x" top: "label" dummy_data_param {
  shape { dim: 6 dim: 4 dim: 5 dim: 5 } shape { dim: 6 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 2 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" param { force_mult: 1 }
  convolution_param { num_output: 6 kernel_size: 3 group: 2 weight_filler { type: "xavier" } } }
layer { name: "f" type: "InnerProduct" bottom: "c" top: "f"
  inner_product_param { num_output: 5 transpose: true weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "f" bottom: "label" top: "loss" }
"""


def solver(folder: Path, settings: str = "", keep: bool = True) -> Solver:
    (folder / "net.prototxt").write_text(NET)
    text = (
        f"net: '{folder / 'net.prototxt'}' test_iter: 1 test_interval: 100 base_lr: 0.05 "
        f"lr_policy: 'fixed' max_iter: 9 random_seed: 3 snapshot_prefix: '{folder / 'snap'}' "
        f"{'keep_zeros: true' if keep else ''} {settings}"
    )
    return Solver(parse_text(text, "SolverParameter", "solver.prototxt"))


def prune(made: Solver) -> list[torch.Tensor]:
    """Zero a third of all weights, and filter 1 of each layer; returns where zeros must stay."""
    generator = torch.Generator().manual_seed(1)
    masks = []
    with torch.no_grad():
        for blob in made.net.learnable:
            mask = torch.zeros(blob.value.shape, dtype=torch.bool)
            if blob.value.ndim > 1:
                mask = torch.rand(blob.value.shape, generator=generator) < 1 / 3
                mask[(slice(None), 1) if blob.layer == "f" else 1] = True
            else:
                blob.value.uniform_(0.1, 0.2, generator=generator)
                mask[1] = True
            blob.value[mask] = 0
            masks.append(mask)
    return masks


@pytest.mark.parametrize("kind", list(RULES))
def test_zeros_stay_and_the_rest_trains(tmp_path: Path, kind: str) -> None:
    momentum = "momentum: 0.9" if RULES[kind].momentum_allowed else ""
    made = solver(tmp_path, f"type: '{kind}' {momentum} delta: 1e-4 weight_decay: 0.01 "
                  "force_decay: 0.01 breadth_decay: 0.1")  # fmt: skip
    masks = prune(made)
    before = [b.value.detach().clone() for b in made.net.learnable]
    made.step(5)
    for blob, mask, old in zip(made.net.learnable, masks, before, strict=True):
        assert not blob.value[mask].any()
        assert not torch.equal(blob.value, old)
        assert bool((blob.value[~mask] != 0).all())
    for block in made.history[:1]:
        assert all(not h[mask].any() for h, mask in zip(block, masks, strict=True))
    tested = made.test_nets[0].learnable
    assert all(t.value is b.value for t, b in zip(tested, made.net.learnable, strict=True))


def test_without_it_zeros_train(tmp_path: Path) -> None:
    made = solver(tmp_path, keep=False)
    masks = prune(made)
    made.step(1)
    assert all(bool(b.value[m].any()) for b, m in zip(made.net.learnable, masks, strict=True))


def test_momentum_from_before_the_mask_is_held_back(tmp_path: Path) -> None:
    made = solver(tmp_path, "momentum: 0.9")
    masks = prune(made)
    with torch.no_grad():
        for history in made.history[0]:
            history.fill_(0.3)
    made.step(2)
    for blob, mask in zip(made.net.learnable, masks, strict=True):
        assert not blob.value[mask].any()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    made = solver(tmp_path, "momentum: 0.9 type: 'Adam'")
    masks = prune(made)
    made.step(3)
    state = made.snapshot()
    made.step(4)
    again = solver(tmp_path, "momentum: 0.9 type: 'Adam'")
    resume(again, state)
    again.step(4)
    for one, other, mask in zip(made.net.learnable, again.net.learnable, masks, strict=True):
        np.testing.assert_array_equal(one.value.detach(), other.value.detach())
        assert not other.value[mask].any()


def test_zero_biases_of_living_filters_are_free(tmp_path: Path) -> None:
    made = solver(tmp_path)
    made.step(2)
    assert all(bool(b.value.any()) for b in made.net.learnable if b.role == "bias")
