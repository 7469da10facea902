"""Rank clipping: what it computes, carries over, writes, and that it resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.compress.clip import FIRST_MOMENTS, RankClipper, find_pairs
from caffe_bridge.errors import PlanError, SolverError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.schema import Record, parse_text
from caffe_bridge.solver import Solver, read_solver
from caffe_bridge.solver.resume import resume
from caffe_bridge.solver.updates import RULES

NET = """
layer { name: "data" type: "DummyData" top: "x" top: "label" dummy_data_param {
  shape { dim: 6 dim: 4 dim: 5 dim: 5 } shape { dim: 6 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 2 } } }
layer { name: "c_lowrank" type: "Convolution" bottom: "x" top: "c_lowrank"
  convolution_param { num_output: 8 kernel_size: 3 group: 2 bias_term: BIAS
    weight_filler { type: "xavier" } bias_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "c_linear" type: "Convolution" bottom: "c_lowrank" top: "c"
  convolution_param { num_output: 6 kernel_size: 1 group: 2 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "c" top: "c" }
layer { name: "f_lowrank" type: "InnerProduct" bottom: "c" top: "f_lowrank"
  inner_product_param { num_output: 6 bias_term: false transpose: TURN
    weight_filler { type: "xavier" } } }
layer { name: "f_linear" type: "InnerProduct" bottom: "f_lowrank" top: "f"
  inner_product_param { num_output: 5 transpose: TURN weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "f" bottom: "label" top: "loss" }
"""


def setting(folder: Path, extra: str = "", bias: str = "true", turn: str = "false") -> Record:
    (folder / "net.prototxt").write_text(NET.replace("BIAS", bias).replace("TURN", turn))
    text = (
        f"net: '{folder / 'net.prototxt'}' test_iter: 1 test_interval: 4 max_iter: 12 "
        f"base_lr: 0.01 random_seed: 3 snapshot_prefix: '{folder / 'snap'}' "
        + ("" if "lr_policy" in extra else "lr_policy: 'fixed' ") + extra
    )  # fmt: skip
    (folder / "solver.prototxt").write_text(text)
    return parse_text(text, "SolverParameter", "solver.prototxt")


def clipper(param: Record, energy: float, **more: object) -> RankClipper:
    return RankClipper(Solver(param), Solver, energy, **more)  # type: ignore[arg-type]


def kernel_to_second(path: Path) -> None:
    """Move the kernel of the pair to its second layer, as weight_svd does."""
    text = path.read_text().replace("kernel_size: 3 group", "kernel_size: 1 group")
    path.write_text(
        text.replace("6 kernel_size: 1 group: 2", "6 kernel_h: 3 kernel_w: 2 pad: 1 group: 2")
    )


def thin(solver: Solver, name: str, group: int, keep: int, turn: bool = False) -> None:
    """Give a lowrank layer's weight (and bias) an exact rank of ``keep`` a group."""
    with torch.no_grad():
        blobs = [b.value for b in solver.net.learnable if b.layer == name]
        matrix = blobs[0].T if turn else blobs[0].reshape(blobs[0].shape[0], -1)
        joint = [matrix] + ([blobs[1][:, None]] if len(blobs) > 1 else [])
        rows = torch.cat(joint, 1).reshape(group, matrix.shape[0] // group, -1)
        u, s, vh = torch.linalg.svd(rows, full_matrices=False)
        s[:, keep:] = 0
        made = (u * s.unsqueeze(1) @ vh).reshape(matrix.shape[0], -1)
        weight = made[:, : matrix.shape[1]]
        blobs[0].copy_(weight.T if turn else weight.reshape(blobs[0].shape))
        if len(blobs) > 1:
            blobs[1].copy_(made[:, -1])


@pytest.mark.parametrize("bias", ["true", "false"])
@pytest.mark.parametrize("turn", ["true", "false"])
def test_redundant_ranks_go_without_changing_the_net(tmp_path: Path, bias: str, turn: str) -> None:
    made = clipper(setting(tmp_path, "", bias, turn), 1 - 1e-9)
    made.solver.step(4)
    thin(made.solver, "c_lowrank", 2, 2)
    thin(made.solver, "f_lowrank", 1, 3, turn == "true")
    feed = {"x": torch.randn(6, 4, 5, 5), "label": torch.zeros(6)}
    before = made.solver.net.evaluate(feed), made.solver.net.fetch("f").clone()  # type: ignore[call-arg]
    assert made.clip()
    assert made.ranks == [(4, {"c": 4, "f": 3})]
    after = made.solver.net.evaluate(feed), made.solver.net.fetch("f")  # type: ignore[call-arg]
    assert after[0] == pytest.approx(before[0], rel=1e-5)
    assert torch.allclose(after[1], before[1], atol=1e-5)
    shapes = {b.layer + str(b.index): tuple(b.value.shape) for b in made.solver.net.learnable}
    assert shapes["c_lowrank0"] == (4, 2, 3, 3) and shapes["c_linear0"] == (6, 2, 1, 1)
    assert shapes["f_lowrank0"] == ((54, 3) if turn == "true" else (3, 54))
    assert not made.clip()


def test_a_pair_with_its_kernel_in_the_second_layer(tmp_path: Path) -> None:
    """As weight_svd makes it, with pads at which the bias of the first layer does not count."""
    param = setting(tmp_path, "momentum: 0.9")
    kernel_to_second(tmp_path / "net.prototxt")
    made = clipper(param, 1 - 1e-9)
    made.solver.step(4)
    thin(made.solver, "c_lowrank", 2, 1)
    feed = {"x": torch.randn(6, 4, 5, 5), "label": torch.zeros(6)}
    before = made.solver.net.evaluate(feed), made.solver.net.fetch("f").clone()  # type: ignore[call-arg]
    assert made.clip()
    assert made.ranks == [(4, {"c": 2, "f": 6})]
    after = made.solver.net.evaluate(feed), made.solver.net.fetch("f")  # type: ignore[call-arg]
    assert after[0] == pytest.approx(before[0], rel=1e-5)
    assert torch.allclose(after[1], before[1], atol=1e-5)
    shapes = {b.layer + str(b.index): tuple(b.value.shape) for b in made.solver.net.learnable}
    assert (shapes["c_lowrank0"], shapes["c_linear0"]) == ((2, 2, 1, 1), (6, 1, 3, 2))
    made.solver.step(2)
    assert np.isfinite(made.solver.loss)


@pytest.mark.parametrize(("kernel_in", "keep"), [("first", 2), ("second", 1)])
def test_momentum_makes_the_next_steps_those_of_the_whole_net(
    tmp_path: Path, kernel_in: str, keep: int
) -> None:
    """After an exact clip, the clipped net goes the way of the projected whole one."""
    param = setting(tmp_path, "momentum: 0.9", "false")
    if kernel_in == "second":
        kernel_to_second(tmp_path / "net.prototxt")
    made = clipper(param, 1 - 1e-9)
    made.solver.step(4)
    whole = made.solver
    thin(whole, "c_lowrank", 2, keep)
    with torch.no_grad():
        for history, blob in zip(whole.history[0], whole.net.learnable, strict=True):
            if blob.layer == "c_lowrank":
                rows = blob.value.reshape(2, 4, -1)
                u = torch.linalg.svd(rows, full_matrices=False)[0][:, :, :keep]
                history.copy_(
                    (u @ u.transpose(1, 2) @ history.reshape(2, 4, -1)).reshape_as(history)
                )
    momentum = [h.clone() for h in whole.history[0]]
    weights = [b.value.detach().clone() for b in whole.net.learnable]
    assert made.clip()
    clipped = {(b.layer, b.index): i for i, b in enumerate(made.solver.net.learnable)}
    for i, blob in enumerate(whole.net.learnable):
        if not blob.layer.startswith("c_l") or blob.index:
            continue
        j = clipped[blob.layer, blob.index]
        h, w = made.solver.history[0][j], made.solver.net.learnable[j].value.detach()
        assert float(h.norm()) <= float(momentum[i].norm()) * 1.0001
        if blob.layer == "c_lowrank":
            assert float(h.norm()) == pytest.approx(float(momentum[i].norm()), rel=1e-4)
            assert float(w.norm()) == pytest.approx(float(weights[i].norm()), rel=1e-4)
            cross = float((h * w).sum()), float((momentum[i] * weights[i]).sum())
            assert cross[0] == pytest.approx(cross[1], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("kind", list(RULES))
def test_every_solver_goes_on_with_every_policy(tmp_path: Path, kind: str) -> None:
    momentum = "momentum: 0.9" if RULES[kind].momentum_allowed else ""
    policy = "lr_policy: 'multistep' gamma: 0.5 stepvalue: 3 stepvalue: 9"
    made = clipper(setting(tmp_path, f"type: '{kind}' {momentum} {policy} delta: 1e-4"), 0.8)
    solver = made.solve()
    assert solver.iteration == 12 and solver.step_index == 2
    assert [i for i, _ in made.ranks] == [4, 8, 12]
    final = made.ranks[-1][1]
    assert final["c"] < 8 and final["f"] < 6 and final["c"] % 2 == 0
    assert np.isfinite(solver.loss)
    for block, first in zip(solver.history, FIRST_MOMENTS[kind], strict=True):
        assert first or all(bool((h >= 0).all()) for h in block)


def test_an_unwritable_prefix_is_told_before_training(tmp_path: Path) -> None:
    param = setting(tmp_path, "snapshot_after_train: false")
    (tmp_path / "file").write_text("")
    param.snapshot_prefix = str(tmp_path / "file" / "x")
    made = clipper(param, 0.7)
    with pytest.raises(SolverError, match="cannot make the folder of snapshot_prefix"):
        made.solve()
    assert made.solver.iteration == 0


def test_the_log_is_that_of_one_run(tmp_path: Path) -> None:
    """One beginning and one end; average_loss goes on over the tests between."""
    lines: list[str] = []
    windows: list[int] = []
    param = setting(tmp_path, "average_loss: 6")
    made = RankClipper(Solver(param, log=lines.append), lambda p: Solver(p, log=lines.append), 1.0)
    made.solver.callbacks.append(lambda engine: windows.append(len(engine.recent)))
    made.solve()
    assert windows == [1, 2, 3, 4, 5, *[6] * 7]
    told = [line.split("] ")[1] for line in lines]
    (begin,) = (i for i, line in enumerate(told) if line.startswith("Solving"))
    assert begin < next(i for i, line in enumerate(told) if line.startswith("Iteration 4, Testing"))
    assert told[-1] == "Optimization Done."


def test_no_clip_between_tests(tmp_path: Path) -> None:
    param = setting(tmp_path)
    param.max_iter = 6
    made = clipper(param, 0.7)
    assert made.solve().iteration == 6
    assert [i for i, _ in made.ranks] == [4]


def test_files_of_a_clip(tmp_path: Path) -> None:
    made = clipper(setting(tmp_path, "snapshot_format: HDF5"), 0.7)
    made.solver.step(4)
    assert made.clip()
    ranks = "_".join(str(r) for r in made.ranks[0][1].values())
    for name in ("_net.prototxt", "_solver.prototxt", ".caffemodel.h5"):
        assert (tmp_path / f"snap_{ranks}{name}").is_file()
    net = Net(tmp_path / f"snap_{ranks}_net.prototxt", "TRAIN",
              weights=tmp_path / f"snap_{ranks}.caffemodel.h5")  # fmt: skip
    for one, other in zip(net.learnable, made.solver.net.learnable, strict=True):
        assert torch.equal(one.value, other.value)


def test_a_clipped_run_resumes_to_the_last_bit(tmp_path: Path) -> None:
    param = setting(tmp_path, "momentum: 0.9 type: 'Adam'")
    made = clipper(param, 0.8)
    made.solver.step(4)
    assert made.clip()
    path = Path(made.solver.param.net.replace("_net.", "_solver."))
    made.solver.step(3)
    again = Solver(read_solver(path))
    resume(again, str(tmp_path / "snap_iter_4.solverstate"))
    assert again.iteration == 4
    again.step(3)
    for one, other in zip(again.net.learnable, made.solver.net.learnable, strict=True):
        assert torch.equal(one.value, other.value)


def test_ranks_stay_after_until_and_for_excepted_pairs(tmp_path: Path) -> None:
    made = clipper(setting(tmp_path), 0.7, until=4, excepted=["f"])
    solver = made.solve()
    assert [i for i, _ in made.ranks] == [4]
    assert list(made.ranks[0][1]) == ["c"]
    assert [p.rank for p in find_pairs(solver.net.built.spec) if p.name == "f"] == [6]


def test_a_stop_of_the_first_solver_reaches_the_last(tmp_path: Path) -> None:
    made = clipper(setting(tmp_path), 0.7)
    first = made.solver
    first.callbacks.append(lambda engine: setattr(first, "stop_requested", engine.iteration >= 6))
    assert made.solve().iteration == 6 and made.solver is not first


@pytest.mark.parametrize(
    ("change", "settings", "more", "message"),
    [
        (("_lowrank", "_small"), "", {}, "has no layers NAME_lowrank"),
        (
            ('bottom: "f" bottom', 'bottom: "f_lowrank" bottom'),
            "",
            {},
            "must be read by 'f_linear'",
        ),
        (('top: "c_lowrank"', 'top: "c_lowrank" param { name: "w" }'), "", {}, "shares weights"),
        (("", ""), "", {"excepted": ["g"]}, "'g' is no low-rank pair"),
        (("", ""), "", {"energy": 1.5}, "energy ratio is 1.5"),
    ],
)
def test_refusals(
    tmp_path: Path, change: tuple[str, str], settings: str, more: dict[str, object], message: str
) -> None:
    param = setting(tmp_path, settings)
    path = tmp_path / "net.prototxt"
    path.write_text(path.read_text().replace(*change))
    energy = more.pop("energy", 0.9)
    with pytest.raises(PlanError, match=message):
        clipper(param, float(energy), **more)  # type: ignore[arg-type]


def test_pairs_of_a_net() -> None:
    text = NET.replace("BIAS", "true").replace("TURN", "true")
    pairs = find_pairs(parse_net(text, "TRAIN"))
    assert [(p.name, p.group, p.rank, p.transposed) for p in pairs] == [
        ("c", 2, 8, False), ("f", 1, 6, True),
    ]  # fmt: skip
