import gc
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_bridge.data import Hdf5Source, Hdf5Writer
from caffe_bridge.errors import DataError
from caffe_bridge.graph import LayerSpec, parse_net


def write(path: Path, **datasets: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    start = 0
    for name, rows in (("a.h5", 3), ("b.h5", 4)):
        ids = np.arange(start, start + rows)
        write(tmp_path / name, x=np.stack([ids, ids * 10.0], axis=1), y=ids)
        start += rows
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a.h5\n{tmp_path}/b.h5\n")
    return tmp_path


def layer(folder: Path, more: str = "", tops: str = 'top: "x" top: "y"') -> LayerSpec:
    text = (
        f'layer {{ name: "d" type: "HDF5Data" {tops} '
        f'hdf5_data_param {{ source: "{folder}/list.txt" batch_size: 2 {more} }} }}'
    )
    return parse_net(text).layers[0]


def rows(source: Hdf5Source, count: int) -> list[int]:
    return [int(v) for v in source.next(count)[1]]


def test_rows_go_through_all_files_and_round(folder: Path) -> None:
    source = Hdf5Source(layer(folder))
    assert source.shapes(5) == [(5, 2), (5,)]
    x, y = source.next(5)
    np.testing.assert_array_equal(x, [[i, 10 * i] for i in range(5)])
    np.testing.assert_array_equal(y, range(5))
    assert x.dtype == y.dtype == np.float32
    assert rows(source, 18) == [5, 6, *range(7), *range(7), 0, 1]


def test_reset(folder: Path) -> None:
    source = Hdf5Source(layer(folder))
    rows(source, 5)
    source.reset()
    assert rows(source, 4) == [0, 1, 2, 3]


def test_shuffling_mixes_files_and_rows_within_files(folder: Path) -> None:
    source = Hdf5Source(layer(folder, "shuffle: true"))
    seen = rows(source, 70)
    passes = [seen[i : i + 7] for i in range(0, 70, 7)]
    assert all(sorted(p) == list(range(7)) for p in passes)
    assert {tuple(sorted(p[:3])) == (0, 1, 2) for p in passes} == {True, False}
    assert len({tuple(p) for p in passes}) > 5
    source.reset()
    assert rows(source, 70) == seen
    source.seed(1)
    assert rows(source, 70) != seen


def test_transform_param_is_refused(folder: Path) -> None:
    spec = parse_net('layer { name: "d" type: "HDF5Data" top: "x" transform_param { scale: 2 } }')
    with pytest.raises(DataError, match="does not transform data"):
        Hdf5Source(spec.layers[0])


def test_bad_files_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"a\.h5 has no dataset 'z'; it has x, y"):
        Hdf5Source(layer(folder, tops='top: "z"'))
    write(folder / "a.h5", x=np.zeros((3, 1)), y=np.zeros(2))
    with pytest.raises(DataError, match="has 3, 2 rows in its datasets x, y"):
        Hdf5Source(layer(folder))
    (folder / "a.h5").write_text("text")
    with pytest.raises(DataError, match=r"a\.h5' is no HDF5 file"):
        Hdf5Source(layer(folder))
    (folder / "a.h5").unlink()
    with pytest.raises(DataError, match=r"d \(HDF5Data\) at .*a\.h5' does not exist"):
        Hdf5Source(layer(folder))
    (folder / "list.txt").unlink()
    with pytest.raises(DataError, match=r"correct hdf5_data_param\.source"):
        Hdf5Source(layer(folder))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([b"a", b"b"]), r"\|S1"),
        (np.zeros(2, complex), "complex128"),
        (np.zeros(2, [("a", "f4")]), r"\[\('a', '<f4'\)\]"),
    ],
)
def test_only_real_numbers_are_read(values: np.ndarray, kind: str, folder: Path) -> None:
    write(folder / "a.h5", x=np.zeros((2, 2)), y=values)
    with pytest.raises(DataError, match=rf"a\.h5 has dataset 'y' of type {kind}; write real num"):
        Hdf5Source(layer(folder))


def test_files_must_agree(folder: Path) -> None:
    write(folder / "b.h5", x=np.zeros((4, 3)), y=np.zeros(4))
    source = Hdf5Source(layer(folder))
    with pytest.raises(DataError, match=r"b\.h5 has rows of shapes \[\(3,\), \(\)\]"):
        source.next(4)


def test_after_a_bad_file_its_state_goes_on_where_the_last_one_ended(folder: Path) -> None:
    whole = (folder / "b.h5").read_bytes()
    (folder / "b.h5").write_text("text")
    source = Hdf5Source(layer(folder))
    for _ in range(2):
        with pytest.raises(DataError, match=r"b\.h5' is no HDF5 file"):
            rows(source, 4)
        again = Hdf5Source(layer(folder))
        again.set_state(source.state())
        source = again
    (folder / "b.h5").write_bytes(whole)
    assert rows(source, 5) == [3, 4, 5, 6, 0]


def test_after_a_bad_file_shuffling_goes_on_with_the_same_draws(folder: Path) -> None:
    seen = rows(Hdf5Source(layer(folder, "shuffle: true")), 70)
    source = Hdf5Source(layer(folder, "shuffle: true"))
    files = {path: path.read_bytes() for path in folder.glob("*.h5")}
    failures = 0
    for start in range(0, 63, 7):
        assert rows(source, 5) == seen[start : start + 5]
        for path in files:
            path.write_text("text")
        try:
            rows(source, 2)  # needs another file, unless the next pass begins with the open one
        except DataError:
            failures += 1
        for path, content in files.items():
            path.write_bytes(content)
    assert failures > 1
    assert rows(source, 7) == seen[63:]


def test_a_writer_adds_rows_and_gives_the_name_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out.h5"
    target.write_text("old")
    writer = Hdf5Writer(target, ("a", "b"), "l")
    for start in (0, 2):
        x = np.arange(start, start + 2, dtype=np.float32)
        writer.append([np.stack([x, -x], 1), x])
    assert target.read_text() == "old"
    writer.close()
    writer.close()
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["a"], [[i, -i] for i in range(4)])
        np.testing.assert_array_equal(file["b"], range(4))
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]
    with pytest.raises(DataError, match=r"out\.h5' is closed"):
        writer.append([x, x])


def test_a_writer_that_is_dropped_is_closed(tmp_path: Path) -> None:
    writer = Hdf5Writer(tmp_path / "out.h5", ("a",), "l")
    writer.append([np.zeros((2, 3))])
    del writer
    gc.collect()
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["a"].shape == (2, 3)


def test_a_writer_is_closed_when_python_ends(tmp_path: Path) -> None:
    code = (
        "import numpy, sys; from caffe_bridge.data import Hdf5Writer; "
        "w = Hdf5Writer(sys.argv[1], ('a',), 'l'); w.append([numpy.zeros((2, 3))])"
    )
    target = tmp_path / "out.h5"
    subprocess.run([sys.executable, "-c", code, str(target)], check=True)
    (tmp_path / "other").touch()
    assert target.stat().st_mode == (tmp_path / "other").stat().st_mode
    with h5py.File(target) as file:
        assert file["a"].shape == (2, 3)


def test_a_writer_without_rows_leaves_nothing(tmp_path: Path) -> None:
    Hdf5Writer(tmp_path / "out.h5", ("a",), "l").close()
    assert list(tmp_path.iterdir()) == []


def test_writer_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"l: '.*out\.h5' cannot be written \(No such file"):
        Hdf5Writer(tmp_path / "none" / "out.h5", ("a",), "l")
    writer = Hdf5Writer(tmp_path / "out.h5", ("a",), "l")
    writer.append([np.zeros((2, 3))])
    with pytest.raises(DataError, match=r"rows of shape \(4,\) do not fit dataset 'a'"):
        writer.append([np.zeros((2, 4))])
