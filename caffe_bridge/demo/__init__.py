"""The whole journey on real handwritten digits: train, force, decompose, fine-tune, export, time."""
