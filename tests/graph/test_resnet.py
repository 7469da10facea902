"""The ResNet generator."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_bridge.cli.main import main
from caffe_bridge.errors import GraphError
from caffe_bridge.graph import load_net
from caffe_bridge.graph.resnet import resnet

RECIPE = Path(__file__).resolve().parents[2] / "solvers" / "cifar10_resnet20"


def test_the_recipe_is_what_the_generator_writes() -> None:
    assert (RECIPE / "deploy.prototxt").read_text() == resnet(3, forced=True, deploy=True)
    assert (RECIPE / "train_test.prototxt").read_text() == resnet(3, forced=True, deploy=False)


@pytest.mark.parametrize("blocks", [1, 5, 9])
def test_depth(blocks: int, tmp_path: Path) -> None:
    assert main(["resnet", "--blocks", str(blocks), "-o", str(tmp_path)]) == 0
    spec = load_net(tmp_path / "deploy.prototxt")
    kinds = [layer.type for layer in spec.layers]
    assert kinds.count("Convolution") == 6 * blocks + 1 + 2
    assert kinds.count("InnerProduct") == 1
    assert spec.name == f"CIFAR10_ResNet{6 * blocks + 2}"


def test_no_blocks() -> None:
    with pytest.raises(GraphError, match="n is 0"):
        resnet(0, forced=False, deploy=True)
