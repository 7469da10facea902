"""Lists of pictures to data bases, record for record as Caffe's ``convert_imageset``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from caffe_bridge.data.datum import read_picture, to_chw
from caffe_bridge.data.write import write_records
from caffe_bridge.errors import DataError
from caffe_bridge.files import require_file
from caffe_bridge.schema import Record, encode


@dataclass(frozen=True)
class ImagesetOptions:
    """The flags of ``convert_imageset``.

    Attributes:
        resize: (height, width), (0, 0) keeps sizes; both or none.
        gray: one channel instead of three; compressed pictures that are stored as they are keep
            their colours, as in Caffe.
        encoded: store pictures compressed, as they are where nothing is to be changed.
        encode_type: format of compressed pictures ("jpg", "png"); that of each file by default.
            Means ``encoded`` as well, as in Caffe.
        check_size: refuse pictures of different sizes.
        shuffle: draw the order of the list.
        seed: seed of that order.
    """

    resize: tuple[int, int] = (0, 0)
    gray: bool = False
    encoded: bool = False
    encode_type: str = ""
    check_size: bool = False
    shuffle: bool = False
    seed: int = 0


@dataclass
class ImagesetReport:
    """What became of the list: records written, and files that could not be read."""

    written: int = 0
    unreadable: list[str] = field(default_factory=list)


def read_image_list(path: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """Names and labels of a list file, ``name label`` on each line; names may hold blanks.

    Raises:
        DataError: a line without integer label, or no lines.
        SchemaError: no such file.
    """
    found = require_file(path, "image list")
    items = []
    text = found.read_text(encoding="utf-8", errors="surrogateescape")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, _, label = line.rstrip().rpartition(" ")
        try:
            items.append((name, int(label)))
        except ValueError:
            name = ""
        if not name:
            raise DataError(f"{path}:{number}: write 'name label' with an integer; found '{line}'.")
    return items


def _extension(name: str) -> str:
    suffix = name.rpartition(".")[2].lower()
    return "jpg" if suffix == "jpeg" else suffix


def _encode_type(name: str, options: ImagesetOptions) -> str:
    if not (options.encoded or options.encode_type):
        return ""
    kind = options.encode_type.lower() or (name.rpartition(".")[2].lower() if "." in name else "")
    if not kind:
        raise DataError(f"{name}: its name does not tell the format; give encode_type (jpg, png).")
    return kind


def _read(file: str, options: ImagesetOptions) -> np.ndarray | None:
    import cv2  # here: loading it takes longer than everything else in the package

    image: Any = read_picture(file, cv2.IMREAD_GRAYSCALE if options.gray else cv2.IMREAD_COLOR)
    if image is None:
        return None
    height, width = options.resize
    return cv2.resize(image, (width, height)) if height > 0 and width > 0 else image


def picture_record(file: str, label: int, options: ImagesetOptions) -> Record | None:
    """The Datum of one picture, None when it cannot be decoded.

    Raises:
        DataError: not of eight bits, or the format cannot be written.
    """
    image = _read(file, options)
    if image is None:
        return None
    kind = _encode_type(file, options)
    if not kind:
        planes = to_chw(image, file)
        channels, height, width = (int(d) for d in planes.shape)
        return Record(
            "Datum", channels=channels, height=height, width=width,
            data=np.ascontiguousarray(planes).tobytes(), label=label, encoded=False,
        )  # fmt: skip
    as_stored = not any(options.resize)
    if as_stored and _extension(file) == _extension(f".{kind}"):
        return Record("Datum", data=Path(file).read_bytes(), label=label, encoded=True)
    import cv2  # here: see above

    try:
        done, stored = cv2.imencode(f".{kind}", image)
    except cv2.error:
        done = False
    if not done:
        raise DataError(f"{file}: cannot be written as '{kind}'; use jpg or png.")
    return Record("Datum", data=stored.tobytes(), label=label, encoded=True)


def convert_imageset(
    root: str,
    list_file: str | os.PathLike[str],
    path: str | os.PathLike[str],
    backend: str = "lmdb",
    options: ImagesetOptions | None = None,
) -> ImagesetReport:
    """Write the pictures of a list as a data base with keys ``%08d_name``.

    Pictures that cannot be decoded are left out and reported, as in Caffe; their numbers are
    not used again. Caffe source: tools/convert_imageset.cpp, util/io.cpp.

    Args:
        root: put before each name, without separator between.
        list_file: see :func:`read_image_list`.
        path: folder to make.
        backend: ``lmdb`` or ``leveldb``.
        options: flags.

    Raises:
        DataError: contradictory flags, bad list, no readable picture, different sizes.
        BackendError: the backend's library is not installed.
    """
    flags = options or ImagesetOptions()
    if (flags.resize[0] > 0) != (flags.resize[1] > 0):
        raise DataError("gives only one of height and width; give both or none.")
    items = read_image_list(list_file)
    if flags.shuffle:
        order = np.random.default_rng(flags.seed).permutation(len(items))
        items = [items[i] for i in order]
    report = ImagesetReport()

    def records() -> Iterator[tuple[bytes, bytes]]:
        size = 0
        for number, (name, label) in enumerate(items):
            datum = picture_record(root + name, label, flags)
            if datum is None:
                report.unreadable.append(name)
                continue
            if flags.check_size and not datum.encoded:
                size = size or len(datum.data)
                if len(datum.data) != size:
                    raise DataError(
                        f"{root + name}: holds {len(datum.data)} values, the first {size}; "
                        "resize the pictures or do without check_size."
                    )
            report.written += 1
            yield b"%08d_" % number + os.fsencode(name), encode(datum)
        if not report.written:
            raise DataError(
                f"{list_file}: none of its {len(items)} pictures can be read "
                f"(first: {root + items[0][0] if items else 'none'}); correct the root or the list."
            )

    write_records(path, records(), backend)
    return report
