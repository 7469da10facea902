"""Which nets a solver trains and tests (Solver::InitTrainNet and InitTestNets)."""

from __future__ import annotations

import os
from pathlib import Path

from caffe_bridge.errors import SolverError
from caffe_bridge.graph import NetSpec, NetState, net_spec, read_net
from caffe_bridge.schema import Record, read_text, upgrade_net, upgrade_solver

_TRAIN_FIELDS = ("net", "net_param", "train_net", "train_net_param")


def read_solver(path: str | os.PathLike[str]) -> Record:
    """Read a solver prototxt and bring it to the current format.

    Raises:
        SchemaError: missing file or broken text.
        SolverError: contradictory fields, or a net prototxt instead of a solver.
    """
    solver = read_text(path, "SolverParameter")
    if not any(solver.has(name) for name in _TRAIN_FIELDS):
        kind = "a net prototxt" if any(u.name in ("layer", "layers") for u in solver.unknown) else (
            "without a net"
        )  # fmt: skip
        raise SolverError(
            f"{path}: is {kind}; a solver prototxt needs 'net: \"train_test.prototxt\"'."
        )
    return upgrade_solver(solver, path)


def _net(source: str | Record, solver: Record) -> Record:
    if isinstance(source, Record):
        return upgrade_net(source.copy())
    if not Path(source).is_file():
        raise SolverError(
            f"{solver.where()}: net file '{source}' does not exist; paths count from the folder "
            "in which the command runs."
        )
    return read_net(source)


def _state(net: Record, own: Record, phase: str) -> NetState:
    """Caffe merges: phase default, then the net's state, then the solver's state."""
    merged = Record("NetState", phase=phase)
    for source in (net.state, own):
        merged.merge(source.copy())
    return NetState(merged.phase, merged.level, tuple(merged.stage))


def train_spec(solver: Record) -> NetSpec:
    """The training net.

    Raises:
        SolverError: none or several nets are named, or the file is missing.
    """
    given = [name for name in _TRAIN_FIELDS if solver.has(name)]
    if len(given) != 1:
        raise SolverError(
            f"{solver.where()}: names {len(given)} training nets ({', '.join(given) or 'none'}); "
            "give exactly one of " + ", ".join(_TRAIN_FIELDS) + "."
        )
    net = _net(getattr(solver, given[0]), solver)
    return net_spec(net, _state(net, solver.train_state, "TRAIN"))


def test_specs(solver: Record) -> list[NetSpec]:
    """The test nets, in Caffe's order: test_net_param, test_net, then net for the rest.

    Raises:
        SolverError: numbers of test nets, test_iter and test_state do not fit.
    """
    sources: list[str | Record] = [*solver.test_net_param, *solver.test_net]
    generic = next((n for n in ("net_param", "net") if solver.has(n)), None)
    wanted = len(solver.test_iter)
    if len(sources) > wanted or (not generic and len(sources) != wanted):
        raise SolverError(
            f"{solver.where()}: {len(sources)} test nets but {wanted} test_iter; give one "
            "test_iter for each test net."
        )
    if generic:
        sources += [getattr(solver, generic)] * (wanted - len(sources))
    states = list(solver.test_state)
    if states and len(states) != len(sources):
        raise SolverError(
            f"{solver.where()}: {len(states)} test_state for {len(sources)} test nets; "
            "give one each."
        )
    if sources and solver.test_interval < 1:
        raise SolverError(f"{solver.where()}: test_iter needs a positive test_interval.")
    specs = []
    for index, source in enumerate(sources):
        net = _net(source, solver)
        own = states[index] if states else Record("NetState")
        specs.append(net_spec(net, _state(net, own, "TEST")))
    return specs
