"""A layer of another package, installed with pip, trains, converts and appears in ``inspect``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_bridge.schema import load_weights
from tests.shared import REPO

EXAMPLE = REPO / "tests" / "plugin_example"
NET = """
name: "plugged"
layer { name: "data" type: "DummyData" top: "data" top: "target" include { phase: TRAIN }
  dummy_data_param { shape { dim: 8 dim: 5 } shape { dim: 8 dim: 5 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 0.5 } } }
layer { name: "input" type: "Input" top: "data" include { phase: TEST }
  input_param { shape { dim: 2 dim: 5 } } }
layer { name: "soft" type: "Softsign" bottom: "data" top: "soft" }
layer { name: "loss" type: "EuclideanLoss" bottom: "soft" bottom: "target" top: "loss"
  include { phase: TRAIN } }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 5 display: 0
snapshot_prefix: "plugged" random_seed: 1
"""


def run(folder: Path, *arguments: str, plugged: bool = True) -> subprocess.CompletedProcess[str]:
    paths = [str(REPO), *([str(folder / "site")] if plugged else [])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, "-m", *arguments], cwd=folder, env=env,
                          capture_output=True, text=True)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, made / "source")
    done = run(made, "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
               "--target", "site", "./source", plugged=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (made / "net.prototxt").write_text(NET)
    (made / "solver.prototxt").write_text(SOLVER)
    return made


def test_it_is_unknown_without_the_package(folder: Path) -> None:
    done = run(folder, "caffe_bridge", "inspect", "net.prototxt", "--json", plugged=False)
    (layer,) = [item for item in json.loads(done.stdout)["layers"] if item["name"] == "soft"]
    assert done.returncode == 1
    assert layer["status"] == "unsupported"
    assert "caffe_bridge.layers" in layer["reason"]


def test_it_appears_in_inspect(folder: Path) -> None:
    done = run(folder, "caffe_bridge", "inspect", "net.prototxt", "--json")
    (layer,) = [item for item in json.loads(done.stdout)["layers"] if item["name"] == "soft"]
    assert done.returncode == 0, done.stderr
    assert (layer["status"], layer["shapes"], layer["parameters"]) == ("exact", [[2, 5]], 1)


def test_it_trains_and_converts(folder: Path) -> None:
    done = run(folder, "caffe_bridge", "train", "--solver", "solver.prototxt")
    assert done.returncode == 0, done.stderr
    weights = folder / "plugged_iter_5.caffemodel"
    (gain,) = load_weights(weights).blobs["soft"]
    assert gain is not None
    assert 0 < float(gain.array()[0]) < 1, "it starts at 1 and learns towards the target"
    done = run(folder, "caffe_bridge", "convert", "net.prototxt", weights.name, "-o", "p.onnx",
               "--verify")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folder / "p.onnx").stat().st_size > 0


def test_a_module_can_be_imported_instead(folder: Path) -> None:
    shutil.copy(EXAMPLE / "softsign_layer.py", folder / "mine.py")
    for place in (["--import", "mine", "inspect"], ["inspect", "--import", "mine"]):
        done = run(folder, "caffe_bridge", *place, "net.prototxt", plugged=False)
        assert done.returncode == 0, done.stderr
    done = run(folder, "caffe_bridge", "inspect", "--import", "nothing", "net.prototxt")
    assert done.returncode == 1
    assert "--import nothing: cannot be imported" in done.stderr
