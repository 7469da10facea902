"""Every golden layer case against finite differences, and in ONNX against Caffe's own output."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from caffe_bridge.net import Net
from caffe_bridge.onnx_export import newest_opset
from caffe_bridge.onnx_export.export import export
from caffe_bridge.onnx_export.verify import session
from tests.golden.archive import BOUND, Case, case_names, error, load, require
from tools.layer_table import (
    CAFFES_OWN,
    caffes_own,
    golden_types,
    layer_classes,
    main,
    sections,
    table,
)

CASES = case_names("layers")
OPSETS = (13, 17, newest_opset())
STEP = 1e-6
#: Random directions that every input and blob is moved along.
DIRECTIONS = 3


def net_of(case: Case) -> Net:
    return Net(str(case.net), case.meta["phase"], weights=case.weights, seed=0)


class Check:
    """The derivative of a random projection of a net's outputs, found in two ways, in float64."""

    def __init__(self, case: Case) -> None:
        self.net = net_of(case).double()
        self.feed = {k: torch.from_numpy(v).double() for k, v in case.arrays("in").items()}
        self.random = torch.Generator().manual_seed(0)
        wanted = case.arrays("paramdiff")
        self.leaves = {k: self.feed[k].requires_grad_() for k in case.arrays("indiff")
                       if k in self.feed}  # fmt: skip
        self.leaves |= {
            f"{b.layer}/{b.index}": b.value
            for b in self.net.learnable
            if b.value.requires_grad and f"{b.layer}/{b.index}" in wanted
        }
        self.state = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        outputs = self.outputs()
        self.weights = [self.draw(t) if t.requires_grad else None for t in outputs]

    def draw(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.random, dtype=torch.float64)

    def outputs(self) -> list[Tensor]:
        self.net.reset_state()
        torch.manual_seed(0)
        values = self.net.run(self.feed)
        return [values[value.index] for value in self.net.built.graph.outputs]

    def total(self) -> Tensor:
        terms = [(t * w).sum() for t, w in zip(self.outputs(), self.weights, strict=True)
                 if w is not None]  # fmt: skip
        return sum(terms, torch.zeros((), dtype=torch.float64))

    def slope(self, leaf: Tensor, direction: Tensor) -> float:
        """Central difference along a direction."""
        start, ends = leaf.detach().clone(), []
        for step in (STEP, -STEP):
            leaf.data = start + step * direction
            with torch.no_grad():
                ends.append(float(self.total()))
        leaf.data = start
        return (ends[0] - ends[1]) / (2 * STEP)

    def errors(self) -> dict[str, float]:
        total = self.total()
        grads: tuple[Tensor | None, ...] = (None,) * len(self.leaves)
        if total.requires_grad:
            grads = torch.autograd.grad(total, list(self.leaves.values()), allow_unused=True)
        found = {}
        for (name, leaf), given in zip(self.leaves.items(), grads, strict=True):
            grad = torch.zeros_like(leaf) if given is None else given
            found[name] = max(self._error(leaf, grad) for _ in range(DIRECTIONS))
        return found

    def _error(self, leaf: Tensor, grad: Tensor) -> float:
        direction = self.draw(leaf)
        numeric, exact = self.slope(leaf, direction), float((grad * direction).sum())
        return abs(numeric - exact) / max(1e-3, abs(numeric), float(grad.norm()))


@pytest.mark.golden
@pytest.mark.parametrize("name", CASES)
def test_gradient(golden: Path, name: str) -> None:
    case = load(golden / "layers" / name)
    check = Check(case)
    if not check.leaves:
        assert not case.arrays("paramdiff")
        return
    errors = check.errors()
    if caffes_own(name):
        assert max(errors.values()) > BOUND, "it is the derivative; take the case out of the list"
    else:
        require(errors)


@pytest.mark.parametrize("start", CAFFES_OWN)
def test_caffes_own_gradients_are_documented(start: str) -> None:
    name, words = CAFFES_OWN[start]
    cases = [case for case in CASES if case.startswith(start)]
    assert cases
    assert all(name in golden_types()[case] for case in cases)
    assert words in " ".join(sections(layer_classes()[name])["Gradient"])


@pytest.mark.golden
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", CASES)
def test_onnx(golden: Path, name: str, opset: int) -> None:
    case = load(golden / "layers" / name)
    if case.meta["phase"] == "TRAIN":
        pytest.skip("ONNX is made of the TEST phase")
    loaded = session(export(net_of(case), opset))
    given = case.arrays("in")
    names = [item.name for item in loaded.get_outputs()]
    feed = {item.name: given[item.name] for item in loaded.get_inputs()}
    made = dict(zip(names, loaded.run(names, feed), strict=True))
    require({blob: error(made[blob], values) for blob, values in case.arrays("out").items()})


def test_table(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split(" | ") for line in table()[2:]]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(table()) + "\n")
    names = [row[0].split("]")[0].lstrip("| [") for row in rows]
    assert names == list(layer_classes())
    phases = {case: load(golden / "layers" / case).meta["phase"] for case in CASES}
    exported = {
        t for case, types in golden_types().items() if phases[case] == "TEST" for t in types
    }
    for name, row in zip(names, rows, strict=True):
        assert ("Caffe's numbers" in row[1]) is (name in exported)
        assert row[3].startswith("opset") is (name in exported and name != "Input")
        assert ("Caffe's own" in row[2]) is (name in {t for t, _ in CAFFES_OWN.values()})


def test_layers_md_is_current() -> None:
    assert main(["--check"]) == 0
