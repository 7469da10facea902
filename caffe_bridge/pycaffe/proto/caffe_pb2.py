"""``caffe.proto.caffe_pb2``: every message class and enum of the schema under Caffe's names.

They are real protobuf classes, so ``google.protobuf.text_format`` and ``SerializeToString`` work.
"""

from __future__ import annotations

from typing import Any

from caffe_bridge.schema.protobuf import module_names

globals().update(module_names())
__all__ = [name for name in module_names() if name.isidentifier()]


def __getattr__(name: str) -> Any:
    raise AttributeError(f"caffe_pb2 has no '{name}'; it has {', '.join(sorted(__all__))}.")
