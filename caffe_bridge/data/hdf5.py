"""HDF5 files: the source behind the HDF5Data layer, and writing what HDF5Output collects."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from caffe_bridge.data.source import Source, read_list
from caffe_bridge.errors import DataError
from caffe_bridge.graph import LayerSpec, Shape


class Hdf5Source(Source):
    """Rows of the datasets named as the tops, file by file; one file is in memory at a time.

    With ``shuffle`` the order of the files is drawn at each pass over them and that of the rows
    each time a file is entered.

    Args:
        spec: an HDF5Data layer.

    Raises:
        DataError: bad list, file or dataset, or a ``transform_param`` (HDF5 data is used as is).
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        p = spec.record.hdf5_data_param
        if spec.record.has("transform_param"):
            self.fail("HDF5Data does not transform data; remove transform_param.")
        self.shuffle = bool(p.shuffle)
        lines = read_list(spec, "hdf5_data_param.source", str(p.source))
        self.files = [name for line in lines for name in line.split()]
        self._loaded = -1
        self._data: list[np.ndarray] = []
        self._file_order = np.arange(len(self.files))
        self._row_order = np.zeros(0, np.int64)
        self._file = self._row = 0
        self.rewind()
        self._rows = [tuple(int(d) for d in data.shape[1:]) for data in self._data]

    def _load(self, number: int) -> None:
        name = self.files[number]
        data = []
        try:
            with h5py.File(name, "r") as file:
                for top in self.spec.tops:
                    if not isinstance(file.get(top), h5py.Dataset):
                        self.fail(
                            f"{name} has no dataset '{top}'; it has {', '.join(file) or 'none'}."
                        )
                    if file[top].dtype.kind not in "biuf":
                        self.fail(
                            f"{name} has dataset '{top}' of type {file[top].dtype}; write real "
                            "numbers."
                        )
                    data.append(np.asarray(file[top][()], np.float32))
        except OSError as error:
            reason = "is no HDF5 file" if Path(name).is_file() else "does not exist"
            raise DataError(
                f"{self.spec.label()}: '{name}' {reason}; correct the list file "
                f"(relative paths count from {Path.cwd()})."
            ) from error
        counts = [len(values) if values.ndim else 0 for values in data]
        if min(counts) == 0 or len(set(counts)) > 1:
            self.fail(
                f"{name} has {', '.join(map(str, counts))} rows in its datasets "
                f"{', '.join(self.spec.tops)}; all need the same number, at least 1."
            )
        rows = [values.shape[1:] for values in data]
        if self._data and rows != [values.shape[1:] for values in self._data]:
            self.fail(
                f"{name} has rows of shapes {rows}, unlike the files before; make them equal."
            )
        self._data, self._loaded = data, number

    def _enter(self) -> None:
        wanted = int(self._file_order[self._file])
        if wanted != self._loaded:
            self._load(wanted)
        self._row = 0
        self._row_order = np.arange(len(self._data[0]))
        if self.shuffle:
            self.rng.shuffle(self._row_order)

    def shapes(self, batch: int) -> list[Shape]:
        """(batch, ...) of every dataset."""
        return [(batch, *row) for row in self._rows]

    def next(self, batch: int) -> list[np.ndarray]:
        """The next rows of every dataset.

        Raises:
            DataError: the next file cannot be read; the source stays at the end of the last one.
        """
        parts: list[list[np.ndarray]] = []
        missing = batch * self.ranks
        while missing:
            rows = self._row_order[self._row : self._row + missing]
            mine = rows[(self.rank + missing) % self.ranks :: self.ranks]
            parts.append([data[mine] for data in self._data])
            missing -= len(rows)
            self._row += len(rows)
            if self._row == len(self._row_order):
                before = self._file, self._file_order
                draws = self.rng.bit_generator.state
                self._file += 1
                if self._file == len(self.files):
                    self._file = 0
                    if self.shuffle:
                        self._file_order = self.rng.permutation(self._file_order)
                try:
                    self._enter()
                except DataError:
                    # A snapshot taken now must name a file that can be read, before its draws.
                    self._file, self._file_order = before
                    self.rng.bit_generator.state = draws
                    raise
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def state(self) -> dict[str, Any]:
        """File and row, their orders, and the draws."""
        return {
            **super().state(), "file": self._file, "row": self._row,
            "file_order": self._file_order, "row_order": self._row_order,
        }  # fmt: skip

    def set_state(self, state: dict[str, Any]) -> None:
        """Open that file at that row.

        Raises:
            KeyError: the state is another kind of source's.
            DataError: the list or the file has another length than before.
        """
        order = np.asarray(state["file_order"])
        if len(order) != len(self.files):
            self.fail(f"the list has {len(self.files)} files, {len(order)} when it was left.")
        self._file, self._file_order = int(state["file"]), order
        self._enter()
        rows = np.asarray(state["row_order"])
        if len(rows) != len(self._row_order):
            self.fail(
                f"{self.files[self._loaded]} has {len(self._row_order)} rows, {len(rows)} when it "
                "was left."
            )
        self._row, self._row_order = int(state["row"]), rows
        super().set_state(state)

    def rewind(self) -> None:
        """Go to the first row of the first file."""
        self._file = 0
        self._file_order = np.arange(len(self.files))
        if self.shuffle:
            self.rng.shuffle(self._file_order)
        self._enter()


def _publish(file: h5py.File, temporary: Path, target: Path) -> None:
    """Close a file and give it its name; one without rows is removed."""
    rows = len(file)
    file.close()
    if rows:
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    else:
        temporary.unlink()


class Hdf5Writer:
    """Collects rows in an HDF5 file that gets its name when it is closed.

    Rows go to a temporary file beside it, which needs no memory. It is closed by :meth:`close`,
    when the writer is no longer used, or at the latest when Python ends.

    Args:
        path: the file to make; an existing one is replaced when this one is closed.
        names: names of the datasets.
        who: what to name in messages.

    Raises:
        DataError: the folder does not exist or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], names: Sequence[str], who: str) -> None:
        self.path, self.names, self.who = Path(path), list(names), who
        try:
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        except OSError as error:
            raise DataError(
                f"{who}: '{path}' cannot be written ({error.strerror}); correct file_name "
                f"(relative paths count from {Path.cwd()})."
            ) from error
        os.close(handle)
        self._file = h5py.File(name, "w")
        self._finish = weakref.finalize(self, _publish, self._file, Path(name), self.path)

    def append(self, arrays: Sequence[np.ndarray]) -> None:
        """Add rows to every dataset.

        Raises:
            DataError: the writer is closed, or rows of another shape than before.
        """
        if not self._finish.alive:
            raise DataError(f"{self.who}: '{self.path}' is closed; nothing can be added to it.")
        for name, array in zip(self.names, arrays, strict=True):
            if name not in self._file:
                limit = (None, *array.shape[1:])
                self._file.create_dataset(name, data=array, maxshape=limit, chunks=True)
                continue
            data = self._file[name]
            if data.shape[1:] != array.shape[1:]:
                raise DataError(
                    f"{self.who}: rows of shape {array.shape[1:]} do not fit dataset '{name}' of "
                    f"'{self.path}', whose rows have shape {data.shape[1:]}."
                )
            data.resize(len(data) + len(array), axis=0)
            data[len(data) - len(array) :] = array

    def close(self) -> None:
        """Give the file its name. Without rows there is none."""
        self._finish()
