"""Caffe's other tools called as their users call them: names, dashes, underscores, values."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_bridge.cli.caffe_flags import normalise
from caffe_bridge.data import open_records, write_datums
from caffe_bridge.schema import Record, decode, read_binary, read_blob, read_text
from tests.cli.nets import call

pytestmark = pytest.mark.usefixtures("folder")
Capture = pytest.CaptureFixture[str]
IMAGESET = "convert-imageset --backend lmdb --resize-height 6 --gray r/ l db"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("convert_imageset --backend=lmdb --resize_height=6 --gray r/ l db", IMAGESET),
        ("convert_imageset -backend lmdb -resize_height 6 -gray r/ l db", IMAGESET),
        ("convert_imageset.bin -backend=lmdb --resize_height 6 --gray=true r/ l db", IMAGESET),
        ("convert-imageset -backend=lmdb -resize_height=6 -gray=1 r/ l db", IMAGESET),
        ("convert_imageset r/ l db -shuffle --check_size", "convert-imageset r/ l db --shuffle "
         "--check-size"),
        ("convert_imageset --noshuffle --nogray --encoded=false -logtostderr=1 -v 2 r/ l db",
         "convert-imageset r/ l db"),
        ("convert_imageset --gray=perhaps -- -r l db", "convert-imageset --gray=perhaps -- -r l "
         "db"),
        ("convert-imageset --resize-width 3 --seed 4 r/ l db", "convert-imageset --resize-width 3 "
         "--seed 4 r/ l db"),
        ("compute_image_mean -backend=leveldb db m", "compute-image-mean --backend leveldb db m"),
        ("compute_image_mean db m --backend", "compute-image-mean db m --backend"),
        ("extract_features w n b d 3 lmdb GPU 0", "extract-features w n b d 3 lmdb GPU 0"),
        ("upgrade_net_proto_text a b", "upgrade-net a b"),
        ("upgrade_net_proto_binary -nologtostderr a b", "upgrade-net a b"),
        ("upgrade_solver_proto_text a b", "upgrade-solver a b"),
        ("draw_net.py --rankdir=LR --phase ALL --display_lrm n o", "draw --rankdir LR --phase ALL "
         "--display-lrm n o"),
        ("parse_log.py l . --delimiter ;", "parse-log l . --delimiter ;"),
        ("--debug compute_image_mean -backend lmdb d", "--debug compute-image-mean --backend lmdb "
         "d"),
        ("run net w --mean 1 -gray", "run net w --mean 1 -gray"),
    ],
)  # fmt: skip
def test_normalise(given: str, wanted: str) -> None:
    assert normalise(given.split()) == wanted.split()


@pytest.fixture
def pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    Path("pictures").mkdir()
    made = {f"{i}.png": rng.integers(0, 255, (8, 9, 3)).astype(np.uint8) for i in range(4)}
    for name, values in made.items():
        cv2.imwrite(f"pictures/{name}", values)
    Path("list.txt").write_text("".join(f"{name} {i}\n" for i, name in enumerate(made)))
    return made


def records(path: str, backend: str = "lmdb") -> list[tuple[bytes, Record]]:
    reader, found, last = open_records(path, backend), [], False
    while not last:
        key, value, last = reader.take()
        found.append((bytes(key), decode(bytes(value), "Datum")))
    reader.close()
    return found


@pytest.mark.parametrize("form", ["-{}={}", "--{}={}", "-{} {}", "--{} {}"])
@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_convert_imageset_and_mean(
    pictures: dict[str, np.ndarray], capsys: Capture, form: str, backend: str
) -> None:
    flags = {"backend": backend, "resize_width": "5", "resize_height": "4"}
    given = " ".join(form.format(*item) for item in flags.items()).split()
    dash = form[: form.index("{")]
    switches = [f"{dash}gray", f"{dash}check_size", f"{dash}shuffle=false"]
    done = call(capsys, "convert_imageset", *given, *switches, "pictures/", "list.txt", "db")
    assert done.status == 0, done.err
    found = records("db", backend)
    assert [key for key, _ in found] == [b"%08d_%d.png" % (i, i) for i in range(4)]
    want = []
    for (_, datum), (name, _), label in zip(found, pictures.items(), range(4), strict=True):
        gray = cv2.imread(f"pictures/{name}", cv2.IMREAD_GRAYSCALE)
        want.append(cv2.resize(gray, (5, 4)))
        assert (datum.channels, datum.height, datum.width, datum.label) == (1, 4, 5, label)
        assert datum.data == want[-1].tobytes()
    mean = call(capsys, "compute_image_mean", *form.format("backend", backend).split(), "db", "m")
    assert mean.status == 0, mean.err
    assert read_blob("m").shape == (1, 1, 4, 5)
    np.testing.assert_allclose(read_blob("m").array()[0, 0], np.mean(want, 0), rtol=1e-6)


def test_encoded_pictures(pictures: dict[str, np.ndarray], capsys: Capture) -> None:
    args = ("pictures/", "list.txt")
    assert call(capsys, "convert_imageset", "-encoded", *args, "same").status == 0
    assert records("same")[2][1].data == Path("pictures/2.png").read_bytes()
    assert call(capsys, "convert_imageset", "--encode_type=jpg", *args, "jpg").status == 0
    assert all(d.encoded and d.data.startswith(b"\xff\xd8") for _, d in records("jpg"))
    assert call(capsys, "convert_imageset", "-shuffle", "-encoded", *args, "mixed").status == 0
    assert sorted(d.label for _, d in records("mixed")) == [0, 1, 2, 3]
    cv2.imwrite("pictures/3.png", pictures["3.png"][:4])
    refused = call(capsys, "convert_imageset", "-check_size", *args, "sizes")
    assert (refused.status, Path("sizes").exists()) == (1, False)
    assert "3.png: holds 108 values, the first 216" in refused.err


def test_extract_features_by_position(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    write_datums("test_lmdb", np.zeros((4, 3, 6, 6), np.uint8), range(4))
    given = ["extract_features", "net.caffemodel", "train_val.prototxt", "ip"]
    for number, tail in enumerate((["leveldb"], ["lmdb", "CPU"], [])):
        done = call(capsys, *given, f"db{number}", "2", *tail, "-logtostderr=1")
        assert done.status == 0, done.err
    assert len(records("db0", "leveldb")) == len(records("db1")) == len(records("db2")) == 8
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    refused = call(capsys, *given, "db4", "2", "lmdb", "GPU", "0")
    assert refused.status == 1
    assert "torch sees 0 CUDA devices" in refused.err


def test_upgrades(capsys: Capture) -> None:
    layer = 'layers { name: "r" type: RELU bottom: "data" top: "r" }'
    dims = "input_dim: 1 input_dim: 3 input_dim: 2 input_dim: 2"
    Path("old.prototxt").write_text(f'input: "data" {dims} {layer}')
    assert call(capsys, "upgrade_net_proto_text", "old.prototxt", "new.prototxt").status == 0
    assert read_text("new.prototxt", "NetParameter").layer[-1].type == "ReLU"
    done = call(capsys, "upgrade_net_proto_binary", "net.caffemodel", "new.caffemodel")
    assert done.status == 0
    assert read_binary("new.caffemodel", "NetParameter").layer
    Path("s.prototxt").write_text('net: "n" solver_type: NESTEROV')
    assert call(capsys, "upgrade_solver_proto_text", "s.prototxt", "t.prototxt").status == 0
    assert read_text("t.prototxt", "SolverParameter").type == "Nesterov"


@pytest.mark.parametrize("phase", ["TRAIN", "TEST", "ALL"])
def test_draw_net(capsys: Capture, phase: str) -> None:
    done = call(capsys, "draw_net.py", "--rankdir", "LR", f"--phase={phase}", "--display_lrm",
                "train_val.prototxt", "net.svg")  # fmt: skip
    assert done.status == 0, done.err
    assert "lr_mult" in Path("net.svg").read_text()


def test_parse_log_with_another_delimiter(capsys: Capture) -> None:
    head = "I0101 12:00:00.000000     1 solver.cpp:1] "
    Path("a.log").write_text(f"{head}Iteration 0, loss = 2\n{head}Iteration 0, lr = 0.5\n")
    assert call(capsys, "parse_log.py", "a.log", ".", "--delimiter=;").status == 0
    assert Path("a.log.train").read_text().startswith("NumIters;Seconds;")
    assert call(capsys, "parse-log", "a.log", "--delimiter", "ab").status == 2
