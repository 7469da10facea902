"""A prototxt is recognised as net, solver or something else, broken ones too."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema import prototxt_kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('layer { name: "x" }', "net"),
        ("layers { type: RELU }", "net"),
        ('name: "empty"', "net"),
        ('input: "data" layer { type: "ReLU" fork_param { a: 1 } }', "net"),
        ('net: "n.prototxt" base_lr: 0.1', "solver"),
        ("base_lr: 0.1 of_a_fork: 3", "solver"),
        ('item { name: "cat" label: 1 }', "other"),
        ('name: "flow" input: "data" node { name: "x" }', "other"),
        ('layer { name: "x"\n num_output: }', "net"),
        ("base_lr: 0.1\nmax_iter: many many", "solver"),
        ("nothing : :", "other"),
    ],
)
def test_kinds(tmp_path: Path, text: str, kind: str) -> None:
    path = tmp_path / "x.prototxt"
    path.write_text(text)
    assert prototxt_kind(path) == kind


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"nowhere\.prototxt"):
        prototxt_kind(tmp_path / "nowhere.prototxt")
