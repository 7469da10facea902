"""Every real model converts, and computes the same at batch 1 and 3."""

from __future__ import annotations

import pytest

from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from caffe_bridge.onnx_export.verify import verify
from tests.shared import SHARED, needs_shared

MODELS = (
    "cifar10_full", "cifar10_quick", "cifar10_resnet20", "landmark106", "lenet_mnist",
    "mtcnn_fast_pnet", "mtcnn_lnet", "mtcnn_onet", "mtcnn_pnet", "plate_characters",
    "plate_finemapping", "retinaface_mnet25", "squeezenet_imagenet", "triplet_pose", "vdsr",
    "waifu2x_upconv7", "waifu2x_vgg7",
)  # fmt: skip


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_real_models(name: str) -> None:
    folder = SHARED / "models" / name
    net = Net(folder / "deploy.prototxt", weights=folder / "weights.caffemodel")
    net.eval()
    done = verify(net, export(net), batches=(1, 3), every_blob=True).require(name)
    assert done.batches == (1, 3)
    outputs = {d.blob for d in done.differences if d.output}
    assert outputs == set(net.outputs)
