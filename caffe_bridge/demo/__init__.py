"""The whole journey on real handwritten digits, from training to a timed ONNX model."""
