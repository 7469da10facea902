"""ONNX out of a net, and proof that it computes the same."""

from caffe_bridge.onnx_export.export import (
    DEFAULT_OPSET,
    TARGETS,
    convert,
    export,
    forms_of,
    newest_opset,
    save,
)

__all__ = [
    "DEFAULT_OPSET", "TARGETS", "convert", "export", "forms_of", "newest_opset", "save",
]  # fmt: skip
