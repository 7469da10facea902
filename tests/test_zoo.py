"""tools/zoo.py counts what can be run and names nothing outside its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shared import REPO, SHARED, needs_shared
from tools import zoo

FILES = {
    "a/good.prototxt": 'layer { name: "d" type: "Data" top: "d" data_param { source: "/x/mnist" '
                       "batch_size: 2 } }",
    "a/solver.prototxt": 'net: "/home/me/net.prototxt" lr_policy: "fixed" base_lr: 1 max_iter: 1',
    "a/labels.prototxt": 'item { name: "cat" }',
    "b/type.prototxt": 'layer { name: "o" type: "NoSuchLayer" top: "o" }',
    "b/broken.prototxt": 'layer { name: "o"\n  type: }',
    "b/wiring.prototxt": 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }',
    "b/code.prototxt": 'layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 1 } } }'
                       '\nlayer { name: "p" type: "Python" bottom: "x" top: "y" python_param { '
                       'module: "mine" layer: "Layer" } }',
    "b/colour.prototxt": 'layer { name: "d" type: "Data" top: "d" transform_param { color_order: '
                         'RGB } data_param { source: "x" batch_size: 2 } }',
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "files"


def test_findings(folder: Path) -> None:
    found = {f.path: f for f in (zoo.examine(p, folder) for p in zoo.prototxts(folder))}
    assert found.keys() == FILES.keys()
    assert {path for path, f in found.items() if f.built} == {
        "a/good.prototxt", "a/solver.prototxt", "b/colour.prototxt",
    }  # fmt: skip
    assert {path for path, f in found.items() if not f.parsed} == {"b/broken.prototxt"}
    reasons = {path: [kind for kind, _ in f.reasons] for path, f in found.items() if f.reasons}
    assert reasons == {
        "b/type.prototxt": [zoo.TYPE], "b/broken.prototxt": [zoo.SYNTAX],
        "b/wiring.prototxt": [zoo.OWN], "b/code.prototxt": [zoo.CODE],
        "b/colour.prototxt": [zoo.DATA],
    }  # fmt: skip
    assert found["b/type.prototxt"].reasons[0][1] == "NoSuchLayer"
    assert found["b/code.prototxt"].reasons[0][1] == "mine.Layer"
    assert "b/broken.prototxt:2:9: " in found["b/broken.prototxt"].reasons[0][1]


def test_report(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "zoo.md"
    assert zoo.main([str(folder), "--out", str(out)]) == 0
    assert "8 files, 6 nets, 33.3 % built" in capsys.readouterr().out
    text = out.read_text()
    assert "| net | 6 | 5 | 2 (33 %) |" in text
    assert "| `NoSuchLayer` | 1 | 1 |" in text
    assert "transform_param.color_order" in text
    assert str(tmp_path) not in text
    assert "/home/me" not in text
    assert zoo.main([str(folder), "--out", str(out), "--least", "50"]) == 1


@needs_shared
@pytest.mark.slow
def test_the_collection(tmp_path: Path) -> None:
    found = [zoo.examine(p, SHARED / "prototxt") for p in zoo.prototxts(SHARED / "prototxt")]
    assert len(found) == 604
    assert not [f.path for f in found for kind, _ in f.reasons if kind == zoo.CRASH]
    assert all(f.built or f.reasons for f in found if f.kind != "other")
    text = (REPO / "docs" / "zoo.md").read_text()
    assert f"{len(found)} files from 74 repositories" in text
    assert str(SHARED) not in text
