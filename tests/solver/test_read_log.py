from __future__ import annotations

from pathlib import Path

import pytest

from caffe_bridge.errors import DataError
from caffe_bridge.solver.read_log import read_log, read_log_file, table_text, write_tables

GLOG = """Log file created at: 2016/12/31 23:59:50
I1231 23:59:50.000000  1234 solver.cpp:279] Solving LeNet
I1231 23:59:50.500000  1234 solver.cpp:330] Iteration 0, Testing net (#0)
I1231 23:59:51.000000  1234 solver.cpp:397]     Test net output #0: accuracy = 0.1
I1231 23:59:51.000000  1234 solver.cpp:397]     Test net output #1: loss = 2.3 (* 1 = 2.3 loss)
I1231 23:59:51.100000  1234 solver.cpp:330] Iteration 0, Testing net (#1)
I1231 23:59:51.200000  1234 solver.cpp:397]     Test net output #0: accuracy = 0.2
I1231 23:59:52.000000  1234 solver.cpp:218] Iteration 0 (0 iter/s, 1s/100 iters), loss = 2.4
I1231 23:59:52.000000  1234 solver.cpp:237]     Train net output #0: loss = 2.5 (* 1 = 2.5 loss)
I1231 23:59:52.000000  1234 sgd_solver.cpp:105] Iteration 0, lr = 0.01
I0101 00:00:00.000000  1234 solver.cpp:218] Iteration 100 (7 iter/s, 8s/100 iters), loss = 1e-05
I0101 00:00:00.000000  1234 solver.cpp:237]     Train net output #0: loss = nan (* 1 = nan loss)
I0101 00:00:00.000000  1234 sgd_solver.cpp:105] Iteration 100, lr = 0.005
"""


def test_a_glog_log() -> None:
    log = read_log(GLOG.splitlines())
    assert log.train[0] == {
        "NumIters": 0, "Seconds": 2, "LearningRate": 0.01, "SmoothedLoss": 2.4, "loss": 2.5,
    }  # fmt: skip
    assert log.train[1]["Seconds"] == 10
    assert log.train[1]["SmoothedLoss"] == 1e-05
    assert len(log.test) == 1
    assert log.test[0]["LearningRate"] == 0.01
    assert (log.test[0]["accuracy"], log.test[0]["accuracy#1"]) == (0.1, 0.2)


def test_tables(tmp_path: Path) -> None:
    log = read_log(GLOG.splitlines())
    paths = write_tables(log, tmp_path, "run.log")
    assert [p.name for p in paths] == ["run.log.train", "run.log.test"]
    lines = paths[0].read_text().splitlines()
    assert lines[0] == "NumIters,Seconds,LearningRate,SmoothedLoss,loss"
    assert lines[2] == "100,10,0.005,1e-05,nan"
    assert table_text([{"NumIters": 1.0}]).splitlines()[1] == "1,,"


def test_series() -> None:
    log = read_log(GLOG.splitlines())
    assert log.series("NumIters", "train:SmoothedLoss") == ([0, 100], [2.4, 1e-05])
    with pytest.raises(DataError, match=r"the test rows have .*accuracy"):
        log.series("NumIters", "test:nope")
    with pytest.raises(DataError, match="write train:COLUMN"):
        log.series("NumIters", "loss")


def test_a_file_without_iterations(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text("nothing\n")
    with pytest.raises(DataError, match="tells of no iteration"):
        read_log_file(tmp_path / "x.log")
