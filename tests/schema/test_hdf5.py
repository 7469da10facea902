"""HDF5 snapshots against h5py and against Caffe's own."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema import load_weights, read_binary, stored_blob
from caffe_bridge.schema.hdf5 import read_state, read_weights, write_state, write_weights
from tests.shared import GOLDEN, needs_shared

RNG = np.random.default_rng(0)
WEIGHT, BIAS = RNG.normal(size=(4, 3)).astype("f4"), RNG.normal(size=4).astype("f4")


def test_round_trip_with_slashes_and_shared_blobs(tmp_path: Path) -> None:
    layers = [
        ("inception/5x5", [WEIGHT, BIAS]),
        ("inception/5x5/reduce", [BIAS]),
        ("relu", []),
        ("twin", [None, BIAS]),
        ("twin2", [WEIGHT, None]),
        ("twin3", [None, None]),
    ]
    path = write_weights(tmp_path / "w.caffemodel.h5", layers)
    read = read_weights(path)
    assert set(read) == {name for name, _ in layers}
    for name, blobs in layers:
        found = read[name]
        wanted = blobs if any(b is not None for b in blobs) else []
        while wanted and wanted[-1] is None:
            wanted = wanted[:-1]
        assert len(found) == len(wanted)
        for mine, theirs in zip(found, wanted, strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or (mine.shape == theirs.shape and not mine.legacy)
            assert mine is None or np.array_equal(mine.array(), theirs)
    with h5py.File(path) as file:
        assert np.array_equal(file["data/inception/5x5/0"][...], WEIGHT)
    assert load_weights(path).partial


def test_the_first_of_a_name_is_written(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "w.h5", [("a", []), ("a", [WEIGHT]), ("a", [BIAS])])
    assert np.array_equal(read_weights(path)["a"][0].array(), WEIGHT)


@pytest.mark.parametrize("name", ["", "/a", "a//b", "a/", "./a"])
def test_names_that_hdf5_takes_for_another_place(tmp_path: Path, name: str) -> None:
    with pytest.raises(SchemaError, match="cannot name an HDF5 group"):
        write_weights(tmp_path / "w.h5", [(name, [WEIGHT])])
    assert not list(tmp_path.iterdir())


def test_state_round_trip(tmp_path: Path) -> None:
    path = write_state(tmp_path / "s.solverstate.h5", 70000, 2, "w_é.caffemodel.h5", [WEIGHT, BIAS])
    iteration, step, learned, history = read_state(path)
    assert (iteration, step, learned) == (70000, 2, "w_é.caffemodel.h5")
    assert [h.shape for h in history] == [(4, 3), (4,)]
    assert np.array_equal(history[0], WEIGHT)


def test_more_than_ten_histories_keep_their_order(tmp_path: Path) -> None:
    path = write_state(tmp_path / "s.h5", 1, 0, "", [np.full(1, i, "f4") for i in range(12)])
    assert [int(h[0]) for h in read_state(path)[3]] == list(range(12))


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["other"] = 1
    with pytest.raises(SchemaError, match="has no group 'data'"):
        read_weights(path)
    with pytest.raises(SchemaError, match=r"it is not a \.solverstate\.h5"):
        read_state(path)
    with h5py.File(path, "w") as file:
        file["iter"] = 5
        file["history/1"] = np.zeros(2)
    with pytest.raises(SchemaError, match="history lacks blob 0"):
        read_state(path)


def test_a_state_without_step_starts_at_zero(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file["iter"] = np.array([5], "i4")
        file.create_group("history")
    assert read_state(path) == (5, 0, "", [])


@pytest.mark.parametrize("read", [read_weights, read_state, load_weights])
def test_damaged_files(tmp_path: Path, read) -> None:
    path = write_weights(tmp_path / "w.caffemodel.h5", [("a", [WEIGHT])])
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(SchemaError, match=f"{path}: is no readable HDF5 file"):
        read(path)
    path.write_bytes(b"hello hello")
    with pytest.raises(SchemaError, match=str(path)):
        read(path)
    with pytest.raises(SchemaError, match="no such"):
        read(tmp_path / "none.h5")


def test_folders_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="cannot write there"):
        write_weights(tmp_path / "none" / "w.h5", [])
    with pytest.raises(SchemaError, match="cannot write there"):
        write_state(tmp_path / "none" / "s.h5", 1, 0, "", [])


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = b"\xb2\xe3\xc8\xfd".decode("utf-8", "surrogateescape")
    with pytest.raises(SchemaError, match=r"layer name '\\xb2\\xe3\\xc8\\xfd' cannot name"):
        write_weights(tmp_path / "w.h5", [(name, [])])
    assert not list(tmp_path.iterdir())
    write_state(tmp_path / "s.h5", 1, 0, name, [])
    assert read_state(tmp_path / "s.h5")[2] == name


@needs_shared
@pytest.mark.golden
@pytest.mark.parametrize("case", ["sgd_fixed", "sgd_multistep", "adam"])
def test_caffes_own_files(case: str, tmp_path: Path) -> None:
    folder = GOLDEN / "solvers" / case
    binary = load_weights(folder / "snap_iter_8.caffemodel")
    hdf5 = load_weights(folder / "snap_iter_8.caffemodel.h5")
    filled = {name for name, blobs in binary.blobs.items() if blobs}
    assert filled == {name for name, blobs in hdf5.blobs.items() if blobs}
    for name in filled:
        for mine, theirs in zip(hdf5.blobs[name], binary.blobs[name], strict=True):
            assert mine.shape == theirs.shape
            assert np.array_equal(mine.array(), theirs.array())
    iteration, step, learned, history = read_state(folder / "snap_iter_8.solverstate.h5")
    state = read_binary(folder / "snap_iter_8.solverstate", "SolverState", "solverstate")
    assert (iteration, step) == (state.iter, state.current_step)
    assert learned.endswith("snap_iter_8.caffemodel.h5")
    assert len(history) == len(state.history)
    for mine, theirs in zip(history, state.history, strict=True):
        assert np.array_equal(mine, stored_blob(theirs).array())
    again = write_state(tmp_path / "s.h5", iteration, step, learned, history)
    with h5py.File(again) as mine, h5py.File(folder / "snap_iter_8.solverstate.h5") as theirs:
        assert set(mine) == set(theirs)
        assert mine["iter"].shape == theirs["iter"].shape
        assert mine["iter"].dtype == theirs["iter"].dtype


def test_places_that_hold_something_else(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file["data"] = WEIGHT
    with pytest.raises(SchemaError, match="has no group 'data'"):
        read_weights(path)
    with h5py.File(path, "w") as file:
        file["data/ip/0"], file["data/ip/000"], file["data/ip/1/x"] = WEIGHT, BIAS, BIAS
    assert [tuple(b.shape) for b in read_weights(path)["ip"] if b] == [WEIGHT.shape]
    with h5py.File(path, "w") as file:
        file["data/ip/0"] = "text"
    with pytest.raises(SchemaError, match="'/data/ip/0' holds no numbers"):
        read_weights(path)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [("history", WEIGHT, "it is not a .solverstate.h5"), ("iter/x", 1, "'iter' is a group"),
     ("history/0/x", WEIGHT, "'0' is a group"), ("iter", "seven", "holds no numbers")],
)  # fmt: skip
def test_damaged_states(place: str, value: object, reason: str, tmp_path: Path) -> None:
    path = write_state(tmp_path / "s.h5", 3, 0, "w", [WEIGHT])
    with h5py.File(path, "a") as file:
        del file[place.removesuffix("/x")]
        file[place] = value
    with pytest.raises(SchemaError, match=reason):
        read_state(path)
