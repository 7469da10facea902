"""The speed-ups of the paper's AlexNet tables, measured layer by layer on this machine.

Wen et al., "Coordinating Filters for Faster Deep Neural Networks", ICCV 2017: Table 4 (filter PCA
of conv3 to conv5 with and without force) and Table 6 (separable conv1 and conv2, PCA above, at the
ranks of the published configuration). Speed does not depend on the weights, so that the layers'
geometry and the ranks suffice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffe_bridge.compress.decompose import decomposition
from caffe_bridge.compress.latency.forms import Form
from caffe_bridge.compress.latency.single import single_net, time_net
from caffe_bridge.compress.rank.align import align
from caffe_bridge.compress.target import Target
from caffe_bridge.errors import PlanError
from caffe_bridge.schema import Record

#: num_output, channels, kernel, stride, pad, group and size of the bottom.
_ALEXNET = {
    "conv1": (96, 3, 11, 4, 0, 1, 227),
    "conv2": (256, 96, 5, 1, 2, 2, 27),
    "conv3": (384, 256, 3, 1, 1, 1, 13),
    "conv4": (384, 384, 3, 1, 1, 2, 13),
    "conv5": (256, 384, 3, 1, 1, 2, 13),
}
#: Table -> net -> layer -> method, rank, the paper's CPU and GPU speed-ups.
TABLES: dict[str, dict[str, dict[str, tuple[str, int, float, float | None]]]] = {
    "table4": {
        "none": {
            "conv3": ("pca", 184, 1.78, 1.58),
            "conv4": ("pca", 201, 1.60, 1.21),
            "conv5": ("pca", 146, 1.47, 1.15),
        },
        "L2 force": {
            "conv3": ("pca", 124, 2.45, 2.16),
            "conv4": ("pca", 106, 2.76, 2.03),
            "conv5": ("pca", 129, 1.64, 1.33),
        },
    },
    "table6": {
        "published configuration": {
            "conv1": ("spatial", 8, 2.61, None),
            "conv2": ("spatial", 40, 6.06, None),
            "conv3": ("pca", 150, 2.48, None),
            "conv4": ("pca", 160, 2.20, None),
            "conv5": ("pca", 120, 1.58, None),
        },
    },
}


@dataclass(frozen=True)
class PaperRow:
    """One layer at one rank: counted, measured here, and as the paper has it."""

    net: str
    layer: str
    method: str
    rank: int
    aligned: bool
    theoretical: float
    before_ms: float
    after_ms: float
    paper_cpu: float
    paper_gpu: float | None

    @property
    def measured(self) -> float:
        """Measured speed-up of the layer."""
        return self.before_ms / self.after_ms


def alexnet_layer(name: str) -> tuple[Target, tuple[int, int, int]]:
    """A convolution of AlexNet without values, and the shape of one item of its bottom."""
    outputs, channels, kernel, stride, pad, group, size = _ALEXNET[name]
    layer = Record("LayerParameter", name=name, type="Convolution")
    param = layer.mutable("convolution_param")
    param.num_output, param.group = outputs, group
    param.kernel_size, param.stride, param.pad = [kernel], [stride], [pad]
    shape = (channels // group, kernel, kernel)
    weight = np.zeros((outputs, int(np.prod(shape))), np.float32)
    bias = np.zeros(outputs, np.float32)
    return Target(layer, weight, shape, group, bias), (channels, size, size)


def paper_rows(table: str, *, batch: int = 1, threads: int = 1, block: int = 16,
               device: str = "cpu") -> list[PaperRow]:  # fmt: skip
    """Measure a table of the paper, at its ranks and at those rounded up to the block.

    Args:
        table: "table4" or "table6".
        batch: images of one run.
        threads: threads of one operator.
        block: channel block for the rounded ranks; 0 leaves them out.
        device: "cpu" or "cuda".

    Raises:
        PlanError: unknown table.
    """
    if table not in TABLES:
        raise PlanError(f"the paper's '{table}' is not known; use {' or '.join(TABLES)}.")
    whole: dict[str, float] = {}
    rows = []
    for net, layers in TABLES[table].items():
        for name, (method, published, cpu, gpu) in layers.items():
            target, item = alexnet_layer(name)
            shape = (batch, *item)
            if name not in whole:
                whole[name] = time_net(single_net(target, None, shape), batch, threads, device)
            made = decomposition(method)
            rank = published // target.group * target.group
            ranks = {rank: False}
            if block:
                most = made.max_rank(target.blob, target.group)
                rounded = align(rank, most, target.group, block)
                if isinstance(rounded, int):
                    ranks[rounded] = True
            for each, aligned in ranks.items():
                net_of = single_net(target, Form(made, each), shape)
                rows.append(
                    PaperRow(
                        net, name, method, each, aligned, made.speedup(target, each),
                        whole[name], time_net(net_of, batch, threads, device), cpu, gpu,
                    )
                )  # fmt: skip
    return rows
