"""Caffe's models and training recipes in PyTorch and ONNX, with Caffe's own numbers."""

__version__ = "0.1.0"
