"""Python layers run on the command line only when they are allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.nets import call

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "twice" type: "Python" bottom: "data" top: "twice"
  python_param { module: "cli_python_layer" layer: "Twice" } }
"""
CODE = """
class Twice:
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top): top[0].data[...] = 2 * bottom[0].data
    def backward(self, top, propagate_down, bottom): pass
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "cli_python_layer.py").write_text(CODE)
    (tmp_path / "net.prototxt").write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    return str(tmp_path / "net.prototxt")


def test_refused_unless_allowed(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = call(capsys, "inspect", net)
    assert refused.status == 1
    assert "Python" in refused.out
    allowed = call(capsys, "--allow-python", "inspect", net, "--json").json
    assert allowed["supported"] is True
    assert allowed["layers"][1]["shapes"] == [[2, 3]]
    assert call(capsys, "inspect", net).status == 1, "the permission ends with the command"
