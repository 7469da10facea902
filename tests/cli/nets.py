"""A tiny net in the forms that users have it in, and one call of the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from caffe_bridge.cli.main import main

HEAD = """name: "tiny"
layer { name: "data" type: "Input" top: "data" input_param { shape {dim: 2 dim: 3 dim: 6 dim: 6} } }
"""
DATA = """name: "tiny"
layer {
  name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  data_param { source: "train_lmdb" batch_size: 4 backend: LMDB }
}
layer {
  name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  data_param { source: "test_lmdb" batch_size: 4 backend: LMDB }
}
"""
DUMMY = """name: "tiny"
layer {
  name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param {
    shape { dim: 4 dim: 3 dim: 6 dim: 6 } shape { dim: 4 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 }
  }
}
"""
BODY = """layer {
  name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } }
}
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer {
  name: "ip" type: "InnerProduct" bottom: "conv1" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } }
}
"""
PROB = 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }\n'
LOSS = """layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer {
  name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST }
}
"""
NET = HEAD + BODY + PROB
SOLVER = """net: "train.prototxt"
base_lr: 0.05
lr_policy: "fixed"
momentum: 0.9
max_iter: 6
display: 2
test_iter: 2
test_interval: 3
snapshot_prefix: "snap"
random_seed: 1
"""


@dataclass(frozen=True)
class Outcome:
    """Exit status and what was printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """One in-process call."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return Outcome(status, printed.out, printed.err)
