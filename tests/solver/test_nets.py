"""Which nets a solver trains and tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_bridge.errors import BridgeError, SchemaError, SolverError
from caffe_bridge.graph import NetSpec
from caffe_bridge.schema import Record, parse_text
from caffe_bridge.solver import read_solver
from caffe_bridge.solver.nets import test_specs as specs_to_test
from caffe_bridge.solver.nets import train_spec

RULES = {
    "train": "phase: TRAIN",
    "test": "phase: TEST",
    "deep": "min_level: 2",
    "a": "stage: 'a'",
    "not-a": "not_stage: 'a'",
    "ab": "stage: 'a' stage: 'b'",
    "own": "stage: 'own'",
}
LAYERS = (
    "layer { name: 'in' type: 'Input' top: 'x' input_param { shape { dim: 1 } } }\n"
    + "\n".join(
        f"layer {{ name: '{name}' type: 'ReLU' bottom: 'x' top: '{name}' include {{ {rule} }} }}"
        for name, rule in RULES.items()
    )
)


def solver(text: str) -> Record:
    return parse_text(text, "SolverParameter", "solver.prototxt")


def kept(spec: NetSpec) -> set[str]:
    return {layer.name for layer in spec.layers} - {"in"}


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(f"name: 'file'\n{LAYERS}")
    return path


def inline(name: str = "inline", state: str = "") -> str:
    return f"{{ name: '{name}' {state} {LAYERS} }}"


@pytest.mark.parametrize("field", ["net", "train_net"])
def test_training_net_from_a_file(net: Path, field: str) -> None:
    spec = train_spec(solver(f"{field}: '{net}'"))
    assert spec.name == "file"
    assert kept(spec) == {"train", "not-a"}


@pytest.mark.parametrize("field", ["net_param", "train_net_param"])
def test_training_net_inside_the_solver(field: str) -> None:
    spec = train_spec(solver(f"{field} {inline()}"))
    assert spec.name == "inline"
    assert kept(spec) == {"train", "not-a"}


def test_inline_net_is_upgraded_and_left_alone() -> None:
    old = "layers { name: 'r' type: RELU bottom: 'x' top: 'y' }"
    record = solver(f"net_param {{ input: 'x' input_dim: [1, 2, 3, 4] {old} }}")
    assert [layer.type for layer in train_spec(record).layers] == ["Input", "ReLU"]
    assert list(record.net_param.input_dim) == [1, 2, 3, 4]


def test_states_are_merged() -> None:
    """Phase default, then the net's own state, then the solver's."""
    state = "state { stage: 'own' level: 2 }"
    record = solver(
        f"net_param {inline(state=state)} train_state {{ stage: 'a' stage: 'b' }} test_iter: 1 "
        "test_iter: 1 test_interval: 1 test_state { level: 1 } test_state { stage: 'a' }"
    )
    assert kept(train_spec(record)) == {"train", "deep", "own", "a", "ab"}
    first, second = specs_to_test(record)
    assert kept(first) == {"test", "own", "not-a"}
    assert kept(second) == {"test", "own", "deep", "a"}


def test_order_of_test_nets(net: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.prototxt"
    other.write_text(f"name: 'other'\n{LAYERS}")
    counts = "test_iter: 1 " * 5 + "test_interval: 1 "
    record = solver(
        f"net: '{net}' {counts} test_net: '{other}' test_net_param {inline('p')} "
        f"test_net_param {inline('q')}"
    )
    assert [s.name for s in specs_to_test(record)] == ["p", "q", "other", "file", "file"]
    assert all(kept(s) == {"test", "not-a"} for s in specs_to_test(record))


def test_no_test_nets(net: Path) -> None:
    assert specs_to_test(solver(f"net: '{net}'")) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names 0 training nets"),
        ("net: '{net}' train_net: '{net}'", r"names 2 training nets \(net, train_net\)"),
        ("net: 'nowhere.prototxt'", r"net file 'nowhere\.prototxt' does not exist"),
        ("net: '{folder}'", "does not exist"),
    ],
)
def test_wrong_training_nets(net: Path, text: str, words: str) -> None:
    with pytest.raises(SolverError, match=words):
        train_spec(solver(text.format(net=net, folder=net.parent)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train_net: '{net}' test_iter: 3 test_interval: 1", "0 test nets but 1 test_iter"),
        ("net: '{net}' test_net: '{net}' test_interval: 1", "1 test nets but 0 test_iter"),
        ("train_net: '{net}' test_net: '{net}' test_iter: [1, 2] test_interval: 1", "1 test nets"),
        ("net: '{net}' test_iter: 1", "needs a positive test_interval"),
        (
            "net: '{net}' test_iter: [1, 1] test_interval: 1 test_state { }",
            "1 test_state for 2 test nets",
        ),
        ("net: '{net}' test_net: 'gone.prototxt' test_iter: 1 test_interval: 1", "gone"),
    ],
)
def test_wrong_test_nets(net: Path, text: str, words: str) -> None:
    with pytest.raises(SolverError, match=words):
        specs_to_test(solver(text.replace("{net}", str(net))))


def test_read_solver(tmp_path: Path, net: Path) -> None:
    path = tmp_path / "s.prototxt"
    path.write_text(f"net: '{net}' solver_type: ADAM base_lr: 0.5")
    record = read_solver(path)
    assert (record.type, record.base_lr) == ("Adam", 0.5)
    path.write_text(f"net: '{net}' solver_type: ADAM type: 'SGD'")
    with pytest.raises(SolverError, match="keep 'type' only"):
        read_solver(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAYERS, "is a net prototxt"),
        ("layers { name: 'x' type: RELU }", "is a net prototxt"),
        ("base_lr: 0.1", "is without a net"),
    ],
)
def test_no_solver_in_the_file(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "s.prototxt"
    path.write_text(text)
    with pytest.raises(SolverError, match=words):
        read_solver(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"gone\.prototxt"):
        read_solver(tmp_path / "gone.prototxt")
    broken = tmp_path / "broken.prototxt"
    broken.write_text("net: 'x' base_lr: 0.1 lr_policy")
    with pytest.raises(BridgeError, match=r"broken\.prototxt"):
        read_solver(broken)
