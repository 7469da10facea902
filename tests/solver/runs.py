"""Runs of a small net with everything random in it, for tests that kill them.

``python -m tests.solver.runs FOLDER TYPE SOURCE ITERATION`` trains in FOLDER with snapshots and
kills itself with SIGKILL in the middle of an iteration.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch

from caffe_bridge.data import database, write_datums
from caffe_bridge.net import Net
from caffe_bridge.schema import Record, parse_text
from caffe_bridge.solver import Solver

COUNT, SIDE = 37, 8
NET = """
name: 'everything'
{data}
layer {{ name: 'noise' type: 'DummyData' top: 'noise' include {{ phase: TRAIN }}
  dummy_data_param {{ shape {{ dim: 4 dim: 3 dim: 6 dim: 6 }}
                     data_filler {{ type: 'gaussian' std: 0.1 }} }} }}
layer {{ name: 'sum' type: 'Eltwise' bottom: 'x' bottom: 'noise' top: 'x'
  include {{ phase: TRAIN }} }}
layer {{ name: 'conv' type: 'Convolution' bottom: 'x' top: 'c' param {{ force_mult: 1 }}
  convolution_param {{ num_output: 4 kernel_size: 3 weight_filler {{ type: 'xavier' }} }} }}
layer {{ name: 'bn' type: 'BatchNorm' bottom: 'c' top: 'c' }}
layer {{ name: 'scale' type: 'Scale' bottom: 'c' top: 'c' scale_param {{ bias_term: true }} }}
layer {{ name: 'pool' type: 'Pooling' bottom: 'c' top: 'p'
  pooling_param {{ pool: STOCHASTIC kernel_size: 2 stride: 2 }} }}
layer {{ name: 'relu' type: 'ReLU' bottom: 'p' top: 'p' }}
layer {{ name: 'drop' type: 'Dropout' bottom: 'p' top: 'p' }}
layer {{ name: 'ip' type: 'InnerProduct' bottom: 'p' top: 'y' param {{ force_mult: 2 }}
  inner_product_param {{ num_output: 5 weight_filler {{ type: 'gaussian' std: 0.1 }} }} }}
layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'y' bottom: 'label' top: 'loss' }}
"""
LMDB = """
layer {{ name: 'data' type: 'Data' top: 'x' top: 'label' transform_param {{ {crop} scale: 0.01 }}
  data_param {{ source: '{folder}/db' backend: LMDB batch_size: 4 }} }}"""
LISTED = """
layer {{ name: 'data' type: 'ImageData' top: 'x' top: 'label'
  transform_param {{ {crop} scale: 0.01 }}
  image_data_param {{ source: '{folder}/list.txt' batch_size: 4 shuffle: true }} }}"""
HDF5 = """
layer {{ name: 'data' type: 'HDF5Data' top: 'x' top: 'label'
  hdf5_data_param {{ source: '{folder}/files.txt' batch_size: 4 shuffle: true }} }}"""
SOURCES = {"lmdb": LMDB, "ahead": LMDB, "images": LISTED, "workers": LISTED, "hdf5": HDF5}
SOLVER = """
net: '{folder}/{source}.prototxt' base_lr: 0.01 lr_policy: 'multistep' gamma: 0.5 stepvalue: 15
stepvalue: 25 weight_decay: 0.001 iter_size: 2 average_loss: 7 clip_gradients: 3 random_seed: 5
test_iter: 2 test_interval: 7 snapshot: 20 snapshot_after_train: false max_iter: 40 display: 3
snapshot_prefix: '{folder}/snap' force_decay: 0.01 force_type: 'Degradation'
"""


def write_data(folder: Path) -> None:
    """The same pictures as data base, list and HDF5 files, and the nets that read them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 3, SIDE, SIDE), np.uint8)
    labels = rng.integers(0, 5, COUNT)
    write_datums(folder / "db", images, labels)
    lines = []
    for index, image in enumerate(images):
        cv2.imwrite(f"{folder}/{index}.png", image.transpose(1, 2, 0))
        lines.append(f"{folder}/{index}.png {labels[index]}\n")
    (folder / "list.txt").write_text("".join(lines))
    for number, part in enumerate((slice(0, 20), slice(20, COUNT))):
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file["x"] = images[part, :, :6, :6].astype(np.float32) / 100
            file["label"] = labels[part]
    (folder / "files.txt").write_text(f"{folder}/0.h5\n{folder}/1.h5\n")
    for name, text in SOURCES.items():
        data = text.format(folder=folder, crop="crop_size: 6 mirror: true")
        (folder / f"{name}.prototxt").write_text(NET.format(data=data))


def parameters(folder: Path, kind: str, source: str) -> Record:
    """The solver of one case."""
    momentum = 0 if kind in ("AdaGrad", "RMSProp") else 0.9
    text = SOLVER.format(folder=folder, source=source) + f"type: '{kind}' momentum: {momentum}"
    return parse_text(text, "SolverParameter", "solver.prototxt")


def solver(folder: Path, kind: str, source: str) -> Solver:
    """A new solver of one case; ``ahead`` reads ahead in a thread, ``workers`` in two processes."""
    before = database.CACHE_BYTES
    database.CACHE_BYTES = 16 if source == "ahead" else before
    count = 2 if source == "workers" else 0
    try:
        param = parameters(folder, kind, source)
        return Solver(param, make_net=lambda spec: Net(spec, data_workers=count))
    finally:
        database.CACHE_BYTES = before


def weights(made: Solver) -> list[np.ndarray]:
    """Copies of weights and history."""
    tensors = [blob.value for blob in made.net.learnable]
    tensors += [values for block in made.history for values in block]
    return [tensor.detach().numpy().copy() for tensor in tensors]


def close(made: Solver) -> None:
    """End the threads that read ahead."""
    for net in (made.net, *made.test_nets):
        for layer in net.built.layers:
            if layer.has_source:
                layer.source.close()


def main(folder: str, kind: str, source: str, iteration: str) -> None:
    """Train until the middle of an iteration, then die without a word."""
    torch.set_num_threads(1)
    made = solver(Path(folder), kind, source)

    def die(engine: Solver) -> None:
        if engine.iteration == int(iteration):
            os.kill(os.getpid(), signal.SIGKILL)

    made.on_gradients.append(die)
    made.solve()


if __name__ == "__main__":
    main(*sys.argv[1:])
