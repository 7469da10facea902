"""Batches made by worker processes equal those made without, and workers never outlive anybody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_bridge import pycaffe
from caffe_bridge.cli.runtime import Choice
from caffe_bridge.data import (
    DatabaseSource,
    ImageListSource,
    Prefetched,
    Source,
    WindowSource,
    database,
    encode_datum,
    write_leveldb,
    write_lmdb,
)
from caffe_bridge.data.worker_pool import WorkerPool, usual_workers
from caffe_bridge.errors import DataError
from caffe_bridge.graph import LayerSpec, parse_net
from caffe_bridge.net import Net, RuntimeNet
from caffe_bridge.schema import Record, encode
from tests.shared import REPO

COUNT = 11
CROP = "transform_param { crop_size: 6 mirror: true scale: 0.5 mean_value: 3 }"


def spec(kind: str, param: str) -> LayerSpec:
    text = f'layer {{ name: "d" type: "{kind}" top: "x" top: "y" {CROP} {param} }}'
    return parse_net(text).layers[0]


def image(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (9, 8, 3), np.uint8)


def record(index: int, encoded: bool) -> bytes:
    if not encoded:
        return encode_datum(image(index).transpose(2, 0, 1), index)
    datum = Record("Datum", data=cv2.imencode(".png", image(index))[1].tobytes(), encoded=True)
    datum.label = index
    return encode(datum)


def data_base(folder: Path, backend: str, encoded: bool) -> Source:
    write = write_lmdb if backend == "LMDB" else write_leveldb
    write(folder / "db", ((b"%08d" % i, record(i, encoded)) for i in range(COUNT)))
    param = f'data_param {{ source: "{folder}/db" backend: {backend} batch_size: 3 }}'
    return DatabaseSource(spec("Data", param), "TRAIN")


def images(folder: Path, more: str = "shuffle: true rand_skip: 5") -> Source:
    lines = []
    for index in range(COUNT):
        cv2.imwrite(f"{folder}/{index}.png", image(index))
        lines.append(f"{index}.png {index}\n")
    (folder / "list.txt").write_text("".join(lines))
    param = f'source: "{folder}/list.txt" root_folder: "{folder}/" batch_size: 3 {more}'
    return ImageListSource(spec("ImageData", f"image_data_param {{ {param} }}"), "TRAIN")


def windows(folder: Path) -> Source:
    text = ""
    for index in range(3):
        cv2.imwrite(f"{folder}/{index}.png", image(index))
        boxes = f"{index + 1} 0.9 1 1 6 7\n0 0 0 2 4 5\n"
        text += f"# {index}\n{folder}/{index}.png\n3\n9\n8\n2\n{boxes}"
    (folder / "windows.txt").write_text(text)
    param = f'window_data_param {{ source: "{folder}/windows.txt" batch_size: 3 }}'
    return WindowSource(spec("WindowData", param), "TRAIN")


SOURCES: dict[str, Callable[[Path], Source]] = {
    "lmdb": lambda folder: data_base(folder, "LMDB", True),
    "raw lmdb": lambda folder: data_base(folder, "LMDB", False),
    "leveldb": lambda folder: data_base(folder, "LEVELDB", True),
    "images": images,
    "windows": windows,
}


def batches(source: Source, count: int, size: int = 3) -> list[list[np.ndarray]]:
    return [source.next(size) for _ in range(count)]


def same(got: list[list[np.ndarray]], want: list[list[np.ndarray]]) -> bool:
    return all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for one, other in zip(got, want, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def pids(source: Prefetched) -> list[int]:
    pool = source._pool
    assert isinstance(pool, WorkerPool)
    return [worker.process.pid for worker in pool._workers]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(found: list[int], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(alive(pid) for pid in found):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("name", list(SOURCES))
def test_batches_equal_those_without_workers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CACHE_BYTES", 16)
    plain = SOURCES[name](tmp_path)
    plain.seed(7)
    want = batches(plain, 9)
    ahead = Prefetched(plain, 2, workers=2)
    ahead.seed(7)
    assert same(batches(ahead, 5), want[:5])
    found = pids(ahead)
    assert 1 <= len(found) <= 2 and os.getpid() not in found
    state = ahead.state()
    assert same(batches(ahead, 4), want[5:])
    ahead.set_state(state)  # as resuming does: the batches after that state again
    assert gone(found) and same(batches(ahead, 4), want[5:])
    ahead.divide(1, 2)
    halves = batches(ahead, 2)
    ahead.divide(0, 2)
    others = batches(ahead, 2)
    ahead.divide(0, 1)
    for one, other, whole in zip(others, halves, batches(ahead, 2, size=6), strict=True):
        for a, b, c in zip(one, other, whole, strict=True):
            np.testing.assert_array_equal(np.stack([a, b], 1).reshape(c.shape), c)
    ahead.close()


def test_usual_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CACHE_BYTES", 16)
    for cores, want in ((1, 0), (2, 0), (4, 2), (6, 3), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, n=cores: set(range(n)))
        assert usual_workers() == want
    assert usual_workers(8) == 4 and usual_workers(32) == 0
    (tmp_path / "a").mkdir()
    assert data_base(tmp_path, "LMDB", True).decodes
    assert not data_base(tmp_path / "a", "LMDB", False).decodes


def test_errors_are_those_of_the_source(tmp_path: Path) -> None:
    plain = images(tmp_path, "")
    (tmp_path / "4.png").unlink()
    with pytest.raises(DataError) as without:
        batches(plain, 3)
    plain.reset()
    ahead = Prefetched(plain, 2, workers=2)
    ahead.next(3)
    with pytest.raises(DataError) as within:
        ahead.next(3)
    assert str(within.value) == str(without.value)
    assert "'" in str(within.value) and "4.png' of" in str(within.value)
    np.testing.assert_array_equal(ahead.next(3)[1], [6, 7, 8])
    ahead.close()


def test_a_damaged_record_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CACHE_BYTES", 16)
    values = [record(i, True) for i in range(COUNT)]
    values[4] = encode(Record("Datum", data=b"no picture", encoded=True))
    write_lmdb(tmp_path / "db", ((b"%08d" % i, value) for i, value in enumerate(values)))
    param = f'data_param {{ source: "{tmp_path}/db" backend: LMDB batch_size: 3 }}'
    ahead = Prefetched(DatabaseSource(spec("Data", param), "TRAIN"), 2, workers=1)
    ahead.next(3)
    with pytest.raises(DataError, match=r"d \(Data\).*key 00000004: 10 bytes that are no picture"):
        ahead.next(3)
    ahead.close()


def test_a_killed_worker_is_an_error(tmp_path: Path) -> None:
    ahead = Prefetched(images(tmp_path), 1, workers=1)
    ahead.next(3)
    os.kill(pids(ahead)[0], signal.SIGKILL)
    with pytest.raises(DataError, match=r"d \(ImageData\).*data worker process \d+ was killed by"):
        batches(ahead, 4)
    ahead.reset()
    assert ahead.next(3)[0].shape == (3, 3, 6, 6)
    ahead.close()


def test_workers_end_with_their_source(tmp_path: Path) -> None:
    ahead = Prefetched(images(tmp_path), 2, workers=2)
    ahead.next(3)
    found = pids(ahead)
    del ahead
    assert gone(found)


def test_nets_take_the_number(tmp_path: Path) -> None:
    images(tmp_path)
    param = f'source: "{tmp_path}/list.txt" root_folder: "{tmp_path}/" batch_size: 3'
    text = (
        f'layer {{ name: "d" type: "ImageData" top: "x" top: "y" image_data_param {{ {param} }} }}'
    )
    net = parse_net(text)
    made = [Net(net, data_workers=2), RuntimeNet(net, Choice(data_workers=3).runtime()), Net(net)]
    assert [one.layer("d").source.workers for one in made] == [2, 3, None]
    assert pycaffe.Net(net, data_workers=1).built.layers[0].source.workers == 1


SCRIPT = """
import signal, sys, time
from pathlib import Path
# A shell's background jobs ignore it, and so would this script.
signal.signal(signal.SIGINT, signal.default_int_handler)
from caffe_bridge.data import Prefetched
from tests.data.test_workers import images, pids
ahead = Prefetched(images(Path(sys.argv[1])), 2, workers=2)
for _ in range(4):
    ahead.next(3)
print(*pids(ahead), flush=True)
if sys.argv[2] == "wait":
    time.sleep(60)
"""


@pytest.mark.parametrize("end", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process(end: signal.Signals | None, tmp_path: Path) -> None:
    """A script without 'if __name__' that ends, is interrupted, asked to end, or killed."""
    (tmp_path / "script.py").write_text(SCRIPT)
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path), "wait" if end else "go"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": REPO},
    )  # fmt: skip
    assert child.stdout is not None
    found = [int(word) for word in child.stdout.readline().split()]
    assert found
    if end:
        child.send_signal(end)
    child.wait(30)
    child.stdout.close()
    assert gone(found)


def test_a_forked_process_is_told(tmp_path: Path) -> None:
    ahead = Prefetched(images(tmp_path), 1, workers=1)
    ahead.next(3)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            ahead.next(3)
        except DataError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(read) as stream:
        assert "before this process was forked; make the net after forking" in stream.read()
    assert ahead.next(3)[0].shape == (3, 3, 6, 6)
    ahead.close()
