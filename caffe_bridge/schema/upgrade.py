"""Old nets and solvers to the current format (Caffe's upgrade_proto.cpp, in its order).

V0 -> V1 -> data transformation -> V2 -> ``input`` fields -> BatchNorm. Works on records, hence on
prototxt and caffemodel alike. Every function changes its argument.
"""

from __future__ import annotations

import os
from pathlib import Path

from caffe_bridge.errors import SolverError, UpgradeError
from caffe_bridge.schema.record import Record
from caffe_bridge.schema.upgrade_v0 import is_v0, raw_unknown_of, upgrade_v0

#: V1 enum name -> V2 type string.
V1_TYPES = {
    "NONE": "", "ABSVAL": "AbsVal", "ACCURACY": "Accuracy", "ARGMAX": "ArgMax", "BNLL": "BNLL",
    "CONCAT": "Concat", "CONTRASTIVE_LOSS": "ContrastiveLoss", "CONVOLUTION": "Convolution",
    "DATA": "Data", "DECONVOLUTION": "Deconvolution", "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData", "EUCLIDEAN_LOSS": "EuclideanLoss", "ELTWISE": "Eltwise",
    "EXP": "Exp", "FLATTEN": "Flatten", "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss", "IM2COL": "Im2col", "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss", "INNER_PRODUCT": "InnerProduct", "LRN": "LRN",
    "MEMORY_DATA": "MemoryData", "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN", "POOLING": "Pooling", "POWER": "Power", "RELU": "ReLU", "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss", "SILENCE": "Silence",
    "SLICE": "Slice", "SOFTMAX": "Softmax", "SOFTMAX_LOSS": "SoftmaxWithLoss", "SPLIT": "Split",
    "TANH": "TanH", "THRESHOLD": "Threshold", "WINDOW_DATA": "WindowData",
}  # fmt: skip
#: Enum values that forks of the V1 era added (no BVLC meaning).
FORK_V1_TYPES = {
    "PRELU": "PReLU", "40": "PReLU", "ELU": "ELU", "41": "ELU", "BN": "BN", "RESHAPE": "Reshape",
    "CROP": "Crop", "NORMALIZE": "Normalize", "BATCH_NORM": "BatchNorm", "SCALE": "Scale",
    "ROI_POOLING": "ROIPooling", "UPSAMPLE": "Upsample", "RELU6": "ReLU6",
    "COMPACT_DATA": "CompactData", "COLINEAR_CONVOLUTION": "ColinearConvolution",
}  # fmt: skip
_TRANSFORMED = {"DATA": "data_param", "IMAGE_DATA": "image_data_param",
                "WINDOW_DATA": "window_data_param"}  # fmt: skip
_TRANSFORM_FIELDS = ("scale", "mean_file", "crop_size", "mirror")
_PARAM_FIELDS = ("param", "blob_share_mode", "blobs_lr", "weight_decay")
_SOLVERS = {"SGD": "SGD", "NESTEROV": "Nesterov", "ADAGRAD": "AdaGrad", "RMSPROP": "RMSProp",
            "ADADELTA": "AdaDelta", "ADAM": "Adam"}  # fmt: skip


def _upgrade_v1_layer(old: Record) -> Record:
    made = Record("LayerParameter")
    made.line, made.origin, made.unknown = old.line, old.origin, list(old.unknown)
    made.raw_unknown = raw_unknown_of(old, made)
    for field, value in old.items():
        if field.name == "type":
            known = V1_TYPES.get(value, FORK_V1_TYPES.get(value))
            made.type = value if known is None else known
        elif field.name in _PARAM_FIELDS:
            continue
        elif made.has_field(field.name):
            setattr(made, field.name, value)
        else:
            raise UpgradeError(
                f"{old.name} at {old.where()}: V1 field '{field.name}' has no modern equivalent."
            )
    count = max(len(getattr(old, name)) for name in _PARAM_FIELDS)
    for index in range(count):
        spec = made.add("param")
        if index < len(old.param) and old.param[index]:
            spec.name = old.param[index]
        if index < len(old.blob_share_mode):
            spec.share_mode = old.blob_share_mode[index]
        if index < len(old.blobs_lr):
            spec.lr_mult = old.blobs_lr[index]
        if index < len(old.weight_decay):
            spec.decay_mult = old.weight_decay[index]
    return made


def _upgrade_transform(layer: Record) -> None:
    message = _TRANSFORMED.get(layer.type)
    if message is None or not layer.has(message):
        return
    param = layer.mutable(message)
    for name in _TRANSFORM_FIELDS:
        if param.has(name):
            setattr(layer.mutable("transform_param"), name, getattr(param, name))
            param.clear(name)


def _upgrade_input(net: Record) -> None:
    names = list(net.input)
    shapes = [list(shape.dim) for shape in net.input_shape]
    if not shapes:
        dims = list(net.input_dim)
        if names and dims and len(dims) != 4 * len(names):
            raise UpgradeError(
                f"{net.where()}: {len(names)} inputs need {4 * len(names)} input_dim values, "
                f"found {len(dims)}."
            )
        shapes = [dims[i : i + 4] for i in range(0, len(dims), 4)]
    if names and shapes:
        if len(shapes) != len(names):
            raise UpgradeError(
                f"{net.where()}: {len(names)} inputs but {len(shapes)} input_shape blocks; "
                "give one each."
            )
        made = Record("LayerParameter", name="input", type="Input", top=names)
        made.origin, made.line = net.origin, net.line
        made.input_param = Record("InputParameter")
        for dims in shapes:
            made.input_param.add("shape", dim=dims)
        net.layer = [made, *net.layer]
    for name in ("input", "input_shape", "input_dim"):
        net.clear(name)


def _upgrade_batch_norm(net: Record) -> None:
    for layer in net.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            for spec in layer.param:
                spec.lr_mult = 0.0
                spec.decay_mult = 0.0


def upgrade_net(net: Record) -> Record:
    """Bring a NetParameter of any age to the current format, in place.

    Returns:
        The same record.

    Raises:
        UpgradeError: a construct without modern equivalent, or V1 and V2 layers mixed.
    """
    if net.has("layers"):
        if net.has("layer"):
            raise UpgradeError(
                f"{net.origin}: has both old 'layers' (line {net.layers[0].line}) and new 'layer' "
                f"blocks (line {net.layer[0].line}); write all of them as 'layer'."
            )
        if is_v0(net):
            upgrade_v0(net)
        for layer in net.layers:
            _upgrade_transform(layer)
        net.layer = [_upgrade_v1_layer(layer) for layer in net.layers]
        net.clear("layers")
    _upgrade_input(net)
    _upgrade_batch_norm(net)
    return net


def upgrade_solver(solver: Record, path: str | os.PathLike[str] = "") -> Record:
    """Bring a SolverParameter to the current format, in place.

    ``solver_type`` becomes ``type``; ``snapshot_prefix`` is completed from the solver's file name
    when it is unset or a folder: one that exists, or a name that ends with a slash.

    Raises:
        SolverError: ``type`` and ``solver_type`` are both given.
    """
    if solver.has("solver_type"):
        if solver.has("type"):
            raise SolverError(
                f"{path}: has both 'type' and the old 'solver_type'; keep 'type' only."
            )
        solver.type = _SOLVERS.get(solver.solver_type, solver.solver_type)
        solver.clear("solver_type")
    if path:
        stem = os.fspath(path)
        stem = stem[: -len(Path(stem).suffix)] if Path(stem).suffix else stem
        if not solver.has("snapshot_prefix"):
            solver.snapshot_prefix = stem
        elif solver.snapshot_prefix.endswith("/") or Path(solver.snapshot_prefix).is_dir():
            solver.snapshot_prefix = str(Path(solver.snapshot_prefix) / Path(stem).name)
    return solver
