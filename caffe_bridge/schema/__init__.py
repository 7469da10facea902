"""Caffe's files: the only package that knows protobuf and its encodings."""

from caffe_bridge.schema.binary import read_binary, read_blob, write_binary, write_blob
from caffe_bridge.schema.blob import StoredBlob, make_blob, stored_blob
from caffe_bridge.schema.dialects import net_from_caffemodel, resolve_dialects
from caffe_bridge.schema.kind import prototxt_kind
from caffe_bridge.schema.record import Record, Unknown, unknown_fields
from caffe_bridge.schema.text import format_text, parse_text, read_text, write_text
from caffe_bridge.schema.upgrade import upgrade_net, upgrade_solver
from caffe_bridge.schema.weights import Weights, load_weights, save_weights
from caffe_bridge.schema.wire import decode, encode

__all__ = [
    "Record", "StoredBlob", "Unknown", "Weights", "decode", "encode", "format_text",
    "load_weights", "make_blob", "net_from_caffemodel", "parse_text", "prototxt_kind",
    "read_binary", "read_blob", "read_text", "resolve_dialects", "save_weights", "stored_blob",
    "unknown_fields", "upgrade_net", "upgrade_solver", "write_binary", "write_blob", "write_text",
]  # fmt: skip
