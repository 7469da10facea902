"""Every prototxt of the collection, solvers too, survives reading, writing and reading again."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_bridge.errors import TextParseError
from caffe_bridge.schema import (
    prototxt_kind,
    read_text,
    unknown_fields,
    upgrade_net,
    upgrade_solver,
    write_text,
)
from tests.shared import SHARED, needs_shared

FOLDER = SHARED / "prototxt"
SUFFIXES = (".prototxt", ".prototxt~", ".pt")
MESSAGES = {"net": "NetParameter", "solver": "SolverParameter", "other": "NetParameter"}
#: Files that break the grammar, or give words where numbers belong.
BROKEN = {
    "MyCaffe+MyCaffe/MyCaffe.test/test_data/models/ssd/vgg16/ssd_vgg16_solver.prototxt",
    "MyCaffe+MyCaffe/MyCaffe.test/test_data/models/tft/Tft_volatility/tft_volatility_train_test.prototxt",
    "MyCaffe+MyCaffe/MyCaffe.test/test_data/projects/minGPT/models/gpt/train_test.prototxt",
    "MyCaffe+MyCaffe/models/ssd/train_val_workinprogress.prototxt",
    "chuanqi305+MobileNet-SSD/template/MobileNetSSD_deploy_template.prototxt",
    "chuanqi305+MobileNet-SSD/template/MobileNetSSD_test_template.prototxt",
    "chuanqi305+MobileNet-SSD/template/MobileNetSSD_train_template.prototxt",
    "zhanglaplace+Caffe-ZF/face_example/facial-expression/mutlipatch/multi_path_train_test.prototxt",
}


def files() -> list[Path]:
    return sorted(p for p in FOLDER.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))


def repositories() -> list[str]:
    return sorted(p.name for p in FOLDER.iterdir() if p.is_dir()) if FOLDER.is_dir() else []


@needs_shared
@pytest.mark.parametrize("repository", repositories())
def test_round_trip(repository: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.prototxt"
    for path in (p for p in files() if p.relative_to(FOLDER).parts[0] == repository):
        message = MESSAGES[prototxt_kind(path)]
        if path.relative_to(FOLDER).as_posix() in BROKEN:
            with pytest.raises(TextParseError, match=r":\d+:\d+: "):
                read_text(path, message)
            continue
        read = read_text(path, message)
        write_text(read, copy)
        again = read_text(copy, message)
        assert again == read, path
        names = [name for name, _ in unknown_fields(read)]
        assert [name for name, _ in unknown_fields(again)] == names, path
        upgraded = upgrade_net(read) if message == "NetParameter" else upgrade_solver(read)
        write_text(upgraded, copy)
        assert read_text(copy, message) == upgraded, path


@needs_shared
def test_the_collection_is_whole_and_has_unknown_fields() -> None:
    found = files()
    assert len(found) == 604
    good = [p for p in found if p.relative_to(FOLDER).as_posix() not in BROKEN]
    kinds = [prototxt_kind(path) for path in good]
    assert {kind: kinds.count(kind) for kind in MESSAGES} == {
        "net": 415,
        "solver": 165,
        "other": 16,
    }
    solvers = [read_text(p, "SolverParameter") for p, k in zip(good, kinds, strict=True)
               if k == "solver"]  # fmt: skip
    assert all(any(s.has(name) for name in ("base_lr", "net", "train_net", "max_iter"))
               for s in solvers)  # fmt: skip
    assert any(s.unknown for s in solvers)
