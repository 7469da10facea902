"""The schema itself: defaults, enums and the descriptor's freshness."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
from google.protobuf import descriptor_pool

from caffe_bridge.schema.messages import enum_type, message_class, pool, record_type, single
from tests.shared import REPO

NAMES = ["NetParameter", "LayerParameter", "SolverParameter", "SolverState", "Datum", "BlobProto"]


@pytest.mark.parametrize("name", NAMES)
def test_defaults_equal_protobuf(name: str) -> None:
    message = message_class(name)()
    for field in record_type(name).fields.values():
        if field.repeated or field.message is not None:
            assert field.default is None or field.repeated
            continue
        theirs = getattr(message, field.name)
        mine = field.enum.numbers[field.default] if field.enum else field.default
        assert single(mine) == single(theirs) if field.kind == "float" else mine == theirs


@pytest.mark.parametrize("name", NAMES)
def test_fields_equal_protobuf(name: str) -> None:
    theirs = message_class(name).DESCRIPTOR.fields_by_name
    mine = record_type(name).fields
    assert set(mine) == set(theirs)
    assert {f.number for f in mine.values()} == {f.number for f in theirs.values()}
    assert all(mine[n].packed == f.GetOptions().packed for n, f in theirs.items())


def test_known_caffe_defaults() -> None:
    solver = record_type("SolverParameter").fields
    assert solver["delta"].default == 1e-8
    assert solver["rms_decay"].default == 0.99
    assert record_type("LRNParameter").fields["alpha"].default == 1.0
    assert record_type("FillerParameter").fields["type"].default == "constant"
    assert record_type("BatchNormParameter").fields["moving_average_fraction"].default == 0.999


def test_enums() -> None:
    phase = enum_type("Phase")
    assert (phase.numbers["TRAIN"], phase.names[1]) == (0, "TEST")
    pooling = enum_type("PoolingParameter.PoolMethod")
    assert list(pooling.numbers)[:3] == ["MAX", "AVE", "STOCHASTIC"]


def test_the_pool_is_private() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("caffe_bridge.NetParameter")
    assert pool() is pool()
    assert message_class("NetParameter").DESCRIPTOR.full_name == "caffe_bridge.NetParameter"


@pytest.mark.skipif(find_spec("grpc_tools") is None, reason="needs grpcio-tools")
def test_the_descriptor_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "tools/build_proto.py", "--check"],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stderr}\nRun: python tools/build_proto.py"
