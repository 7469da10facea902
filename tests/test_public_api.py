"""What other code may import."""

from __future__ import annotations

import importlib
import re

import pytest

import caffe_bridge
from tests.shared import REPO


def _packages() -> list[str]:
    names = ("schema", "graph", "net")
    return [f"caffe_bridge.{n}" for n in names if (REPO / "caffe_bridge" / n).is_dir()]


@pytest.mark.parametrize("name", _packages())
def test_all_is_sorted_and_importable(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__all__
    assert list(package.__all__) == sorted(set(package.__all__))
    for public in package.__all__:
        assert getattr(package, public).__module__.startswith("caffe_bridge") or public == "Shape"
    assert not [n for n in package.__all__ if n.startswith("_")]


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", caffe_bridge.__version__)


def test_everything_public_has_a_docstring() -> None:
    for name in _packages():
        package = importlib.import_module(name)
        lacking = [n for n in package.__all__ if not getattr(package, n).__doc__]
        assert not lacking, name
