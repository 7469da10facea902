"""Divergence, snapshots that cannot be written, and what stays whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.data import write_lmdb
from caffe_bridge.errors import DataError, SolverError
from caffe_bridge.schema import Record, encode, parse_text
from caffe_bridge.solver import Solver
from tests.solver.tiny import solver, weights

LOG_NET = """
  layer { name: "data" type: "DummyData" top: "x" top: "t" dummy_data_param {
    shape { dim: 2 dim: 3 } data_filler { type: "gaussian" std: 1 } } }
  layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
    inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
  layer { name: "log" type: "Log" bottom: "y" top: "z" }
  layer { name: "loss" type: "EuclideanLoss" bottom: "z" bottom: "t" top: "loss" }
"""


def test_nan_loss_names_iteration_and_layer() -> None:
    text = f"train_net_param {{ {LOG_NET} }} base_lr: 0.1 lr_policy: 'fixed' random_seed: 2"
    made = Solver(parse_text(text, "SolverParameter"))
    with pytest.raises(SolverError) as caught:
        made.step(3)
    message = str(caught.value)
    assert message.startswith("iteration 0: the loss is nan; it began in layer log (Log)")
    assert "its top 'z' holds" in message and "NaN" in message
    assert "No snapshot was written before: start again" in message


def test_another_rank_points_to_rank_0(tmp_path: Path) -> None:
    """Snapshots are written by rank 0 only, so that the others know of none."""
    made = solver(tmp_path, "base_lr: 1e30")
    made.ranks.rank = 1
    with pytest.raises(SolverError, match="Rank 0 names the last good snapshot: resume"):
        made.step(5)


def test_divergence_names_the_last_good_snapshot(tmp_path: Path) -> None:
    made = solver(tmp_path, "base_lr: 0.01")
    made.step(1)
    good = made.snapshot()
    assert good == made.last_snapshot == str(tmp_path / "snap_iter_1.solverstate")
    made.param.base_lr = 1e30
    with pytest.raises(SolverError, match=r"last good snapshot is .*snap_iter_1\.solverstate"):
        made.step(5)
    names = sorted(p.name for p in tmp_path.glob("snap*"))
    again = solver(tmp_path, "base_lr: 0.01")
    again.restore(good)
    assert all(np.isfinite(w).all() for w in weights(again))
    assert not [name for name in names if name.startswith(".")]


def test_a_damaged_record_loses_nothing(tmp_path: Path) -> None:
    """The iteration before it is kept, and the error says where."""
    rng = np.random.default_rng(0)
    rows = [
        (b"%08d" % i, encode(Record("Datum", channels=3, height=1, width=1, label=i % 3,
                                    data=rng.bytes(3))))
        for i in range(9)
    ]  # fmt: skip
    whole, rows[7] = rows[7], (rows[7][0], rows[7][1][:5])
    write_lmdb(tmp_path / "db", rows)
    net = LMDB_NET.format(folder=tmp_path)
    text = (
        f"train_net_param {{ {net} }} base_lr: 0.1 lr_policy: 'fixed' random_seed: 2 max_iter: 5 "
        f"snapshot_prefix: '{tmp_path / 'snap'}'"
    )
    made = Solver(parse_text(text, "SolverParameter"))
    with pytest.raises(DataError) as caught:
        made.solve()
    message = str(caught.value)
    assert message.startswith("iteration 3: data (Data)") and "key 00000007" in message
    assert f"The last good snapshot is {tmp_path / 'snap_iter_3.solverstate'}" in message
    kept = weights(made)
    write_lmdb(tmp_path / "mended", [*rows[:7], whole, rows[8]])
    again = Solver(parse_text(text.replace("/db", "/mended"), "SolverParameter"))
    again.restore(made.last_snapshot)
    for one, other in zip(weights(again), kept, strict=True):
        np.testing.assert_array_equal(one, other)
    again.solve()
    assert again.iteration == 5


LMDB_NET = """
  layer {{ name: "data" type: "Data" top: "x" top: "t"
    data_param {{ source: "{folder}/db" backend: LMDB batch_size: 2 }} }}
  layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "y"
    inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" std: 0.01 }} }} }}
  layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "t" top: "loss" }}
"""


def test_broken_weights_are_never_snapshotted(tmp_path: Path) -> None:
    made = solver(tmp_path)
    made.snapshot()
    made.step(1)
    with torch.no_grad():
        made.net.learnable[2].value[0, 1] = float("nan")
    with pytest.raises(SolverError, match=r"no snapshot is written, because layer ip2 .*blob 0 "
                       r"holds 1 NaN and 0 infinite of 8 numbers.*snap_iter_0"):  # fmt: skip
        made.snapshot()
    assert not list(tmp_path.glob("*_iter_1.*"))
    with pytest.raises(SolverError, match="iteration 1: the loss is nan; it began in layer ip2"):
        made.step(1)


@pytest.mark.parametrize("ending", ["BINARYPROTO", "HDF5"])
def test_a_full_disk_leaves_the_older_snapshot(tmp_path: Path, ending: str) -> None:
    """A limit on file sizes fails a write just as a full disk does."""
    code = f"""
import resource
from pathlib import Path
from caffe_bridge.errors import SolverError
from tests.solver.tiny import solver
made = solver(Path({str(tmp_path)!r}), "snapshot_format: {ending}")
made.step(2)
old = made.snapshot()
made.step(1)
before = sorted(p.name for p in Path({str(tmp_path)!r}).iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
try:
    made.snapshot()
except SolverError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert sorted(p.name for p in Path({str(tmp_path)!r}).iterdir()) == before
    made.restore(old)
    assert made.iteration == 2
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "iteration 3: cannot write snapshot" in done.stdout
    assert "nothing of it is left" in done.stdout
    assert "The last good snapshot is" in done.stdout and "snap_iter_2" in done.stdout
