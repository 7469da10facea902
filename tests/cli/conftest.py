"""A folder with a tiny net and weights, in which the commands run."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.cli.nets import BODY, DATA, DUMMY, LOSS, NET, SOLVER


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "net.caffemodel"
    Net(parse_net(NET), seed=0).save(path)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: bytes) -> Path:
    """The current folder: net, weights, train_test net with and without data, solver."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    monkeypatch.delenv("CAFFE_BRIDGE_DEBUG", raising=False)
    Path("net.prototxt").write_text(NET)
    Path("net.caffemodel").write_bytes(weights)
    Path("train.prototxt").write_text(DUMMY + BODY + LOSS)
    Path("train_val.prototxt").write_text(DATA + BODY + LOSS)
    Path("solver.prototxt").write_text(SOLVER)
    return tmp_path
