"""The CIFAR-10 ResNet nets (6n + 2 weighted layers) as prototxt text.

Architecture: 3x3 convolution with 16 filters, then three groups of n blocks with 16, 32 and 64
filters, global average pooling and a 10-way classifier (He et al., "Deep Residual Learning for
Image Recognition", CVPR 2016, section 4.2). The first block of groups 2 and 3 halves the picture;
its shortcut is a 1x1 stride-2 convolution without bias or BatchNorm, as in the Force Regularization
paper. The text depends on the arguments only.
"""

from __future__ import annotations

from caffe_bridge.errors import GraphError

GROUP_FILTERS = (16, 32, 64)
CONV_PARAM = "param { lr_mult: 1 decay_mult: 1 }"
FORCED_PARAM = "param { lr_mult: 1 decay_mult: 1 force_mult: 1 }"
BIAS_PARAM = "param { lr_mult: 2 decay_mult: 0 }"
FROZEN_PARAM = "param { lr_mult: 0 decay_mult: 0 }"
MSRA = 'weight_filler { type: "msra" }'
ZERO_BIAS = 'bias_filler { type: "constant" value: 0 }'


def _message(field: str, *lines: str) -> list[str]:
    """Lines of a nested message, indented by one level."""
    return [f"{field} {{", *(f"  {line}" for line in lines), "}"]


def _layer(name: str, kind: str, bottoms: list[str], tops: list[str], *body: str) -> list[str]:
    """Lines of one layer: name, type, bottoms, tops, then ``body``."""
    edges = [f'bottom: "{b}"' for b in bottoms] + [f'top: "{t}"' for t in tops]
    return _message("layer", f'name: "{name}"', f'type: "{kind}"', *edges, *body)


def _data(phase: str, batch_size: int) -> list[str]:
    """Data layer: a 40x40 record (picture padded by 4), mean subtracted, cropped to 32x32."""
    source = f"data/cifar10_pad4_{phase.lower()}_lmdb"
    mirror = ["mirror: true"] if phase == "TRAIN" else []
    transform = _message(
        "transform_param",
        *mirror,
        "crop_size: 32",
        'mean_file: "data/cifar10_pad4_mean.binaryproto"',
    )
    reader = _message(
        "data_param", f'source: "{source}"', f"batch_size: {batch_size}", "backend: LMDB"
    )
    include = f"include {{ phase: {phase} }}"
    return _layer("cifar10", "Data", [], ["data", "label"], include, *transform, *reader)


def _conv(
    name: str, bottom: str, filters: int, *, kernel: int = 3, stride: int = 1, forced: bool = False
) -> list[str]:
    """Bias-free convolution that keeps the size (stride 1) or halves it (stride 2)."""
    geometry = [f"kernel_size: {kernel}", f"stride: {stride}"]
    if kernel > 1:
        geometry.insert(0, f"pad: {kernel // 2}")
    setup = _message(
        "convolution_param", f"num_output: {filters}", "bias_term: false", *geometry, MSRA
    )
    return _layer(
        name, "Convolution", [bottom], [name], FORCED_PARAM if forced else CONV_PARAM, *setup
    )


def _normalise(conv: str) -> list[str]:
    """In-place BatchNorm and Scale on the blob of ``conv``."""
    scale = _message(
        "scale_param", 'filler { type: "constant" value: 1 }', "bias_term: true", ZERO_BIAS
    )
    return [
        *_layer(f"{conv}_bn", "BatchNorm", [conv], [conv], *[FROZEN_PARAM] * 3),
        *_layer(f"{conv}_scale", "Scale", [conv], [conv], CONV_PARAM, BIAS_PARAM, *scale),
    ]


def _relu(name: str, blob: str) -> list[str]:
    """In-place ReLU."""
    return _layer(name, "ReLU", [blob], [blob])


def _block(name: str, bottom: str, filters: int, *, halve: bool, forced: bool) -> list[str]:
    """Residual block ``conv-BN-ReLU-conv-BN`` plus shortcut; its result is the blob ``<name>``."""
    conv1, conv2 = f"{name}_conv1", f"{name}_conv2"
    lines = _conv(conv1, bottom, filters, stride=2 if halve else 1, forced=forced)
    lines += _normalise(conv1) + _relu(f"{conv1}_relu", conv1)
    lines += _conv(conv2, conv1, filters, forced=forced) + _normalise(conv2)
    shortcut = bottom
    if halve:
        shortcut = f"{name}_downsampling"
        lines += _conv(shortcut, bottom, filters, kernel=1, stride=2)
    lines += _layer(name, "Eltwise", [shortcut, conv2], [name], "eltwise_param { operation: SUM }")
    return lines + _relu(f"{name}_relu", name)


def _body(n: int, forced: bool) -> list[str]:
    """Everything between the input blob ``data`` and the class scores ``ip1``."""
    first = _message(
        "convolution_param",
        f"num_output: {GROUP_FILTERS[0]}",
        "pad: 1",
        "kernel_size: 3",
        "stride: 1",
        MSRA,
        ZERO_BIAS,
    )
    lines = _layer("conv1", "Convolution", ["data"], ["conv1"], CONV_PARAM, BIAS_PARAM, *first)
    lines += _normalise("conv1") + _relu("conv1_relu", "conv1")
    bottom = "conv1"
    for group, filters in enumerate(GROUP_FILTERS, start=1):
        for block in range(1, n + 1):
            name = f"res_grp{group}_{block}"
            halve = group > 1 and block == 1
            lines += _block(name, bottom, filters, halve=halve, forced=forced)
            bottom = name
    pool = "pooling_param { pool: AVE global_pooling: true }"
    lines += _layer("pool1", "Pooling", [bottom], ["pool1"], pool)
    scores = _message("inner_product_param", "num_output: 10", MSRA, ZERO_BIAS)
    return lines + _layer(
        "ip1", "InnerProduct", ["pool1"], ["ip1"], CONV_PARAM, BIAS_PARAM, *scores
    )


def resnet(n: int, *, forced: bool, deploy: bool) -> str:
    """Prototxt text of ResNet-(6n + 2).

    Args:
        n: Residual blocks in each of the three groups.
        forced: Give the 3x3 convolutions of the blocks ``force_mult: 1`` (train_test only).
        deploy: Input and Softmax layers in place of data, accuracy and loss.

    Raises:
        GraphError: ``n`` is smaller than 1.
    """
    if n < 1:
        raise GraphError(f"n is {n}; a ResNet needs at least 1 block in each group.")
    name = f"CIFAR10_ResNet{6 * n + 2}"
    if deploy:
        shape = "input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } }"
        lines = _layer("data", "Input", [], ["data"], shape) + _body(n, forced=False)
        lines += _layer("prob", "Softmax", ["ip1"], ["prob"])
    else:
        lines = _data("TRAIN", 256) + _data("TEST", 100) + _body(n, forced)
        test_only = "include { phase: TEST }"
        lines += _layer("accuracy", "Accuracy", ["ip1", "label"], ["accuracy"], test_only)
        lines += _layer("loss", "SoftmaxWithLoss", ["ip1", "label"], ["loss"])
    options = f"--n {n} --force" if forced else f"--n {n}"
    header = f"# Written by tools/make_resnet.py {options}; edit the generator, not this file."
    return "\n".join([header, f'name: "{name}"', *lines]) + "\n"
