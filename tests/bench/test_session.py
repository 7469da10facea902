"""Sessions, feeds and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from caffe_bridge.bench import make_session
from caffe_bridge.bench.session import session_options
from caffe_bridge.errors import BackendError, DataError, SchemaError
from tests.bench.models import small_net


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_net(tmp_path_factory.mktemp("onnx") / "net.onnx")


def test_options_state_every_setting() -> None:
    options = session_options(3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    for pool in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{pool}.allow_spinning") == "0"
    assert not options.enable_profiling


def test_feeds_follow_batch_and_seed(model: Path) -> None:
    made = make_session(model, batch=5, seed=3)
    assert made.feeds["data"].shape == (5, 3, 16, 16)
    assert made.feeds["data"].dtype == np.float32
    assert np.array_equal(made.feeds["data"], make_session(model, batch=5, seed=3).feeds["data"])
    assert not np.array_equal(made.feeds["data"], make_session(model, batch=5).feeds["data"])
    assert abs(made.feeds["data"].std() - 1) < 0.05
    assert made.providers == ["CPUExecutionProvider"]
    assert made.session_ms > 0
    assert made.first_run_ms > 0
    assert made.outputs()["prob"].sum(axis=1) == pytest.approx(np.ones(5), abs=1e-5)


def test_given_feeds_are_cast_and_set_the_batch(model: Path) -> None:
    made = make_session(model, feeds={"data": np.ones((2, 3, 16, 16))})
    assert made.batch == 2
    assert made.feeds["data"].dtype == np.float32
    assert made.outputs()["prob"].shape == (2, 10)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"data": np.ones((2, 3, 16, 15))}, "wants shape"),
        ({"data": np.ones((3, 16, 16))}, "wants shape"),
        ({"dta": np.ones(1)}, "has no input 'dta'; its inputs are data"),
    ],
)
def test_wrong_feeds_are_refused(model: Path, feeds: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_session(model, feeds=feeds)


def test_fixed_batch_is_kept(tmp_path: Path) -> None:
    path = small_net(tmp_path / "fixed.onnx", batch=4)
    assert make_session(path, batch=4).outputs()["prob"].shape == (4, 10)
    with pytest.raises(DataError, match="fixed batch size of 4, asked for 1"):
        make_session(path)


def test_missing_cuda_is_a_backend_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match="no CUDAExecutionProvider here"):
        make_session(model, device="cuda")


def test_wrong_settings_are_refused(model: Path) -> None:
    with pytest.raises(BackendError, match="device 'tpu' is not known; use cpu or cuda"):
        make_session(model, device="tpu")
    with pytest.raises(BackendError, match="threads is 0"):
        make_session(model, threads=0)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no such ONNX file"):
        make_session(tmp_path / "missing.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"name: 'a prototxt'")
    with pytest.raises(SchemaError, match="onnxruntime cannot load it"):
        make_session(broken)
