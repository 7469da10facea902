"""Fields of binary files whose numbers clash between forks, told apart by the layer's type.

Forks gave their own layers' parameters numbers that others use for something else. Our schema
keeps each under its text name with a private number; a binary file has the fork's number. What
such a field means follows from the type of its layer (a Permute layer's field 202 can only be
``permute_param``) and, inside a parameter, from its wire type. Weights need none of this; it is
for nets that are built from the layers stored in a caffemodel.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema.binary import read_binary
from caffe_bridge.schema.record import RawUnknown, Record
from caffe_bridge.schema.upgrade import upgrade_net
from caffe_bridge.schema.wire import I32, LEN, VARINT, WireError, decode, encode, walk

#: Layer type -> {field number in the file: our field}. SSD has 200 to 207, TensorRT 8781 to 8787,
#: MNN 2201 to 2210, Tengine 300 to 308; others are named behind the number.
LAYER_FIELDS: dict[str, dict[int, str]] = {
    "AnnotatedData": {200: "annotated_data_param"},
    "MultiBoxLoss": {201: "multibox_loss_param"},
    "Permute": dict.fromkeys((202, 8781), "permute_param"),
    "PriorBox": dict.fromkeys((203, 8784), "prior_box_param"),
    "DetectionOutput": dict.fromkeys((204, 8782), "detection_output_param"),
    "DetectionEvaluate": {205: "detection_evaluate_param"},
    "Normalize": dict.fromkeys((206, 8783), "norm_param"),
    "VideoData": {207: "video_data_param"},
    # py-faster-rcnn 8266711 and 8266712, R-FCN 10000 and 10001, Intel 148 and 152 to 154, ncnn
    # 148 and 149.
    "ROIPooling": dict.fromkeys((8266711, 154, 212, 213, 2201, 8785), "roi_pooling_param"),
    "ROIAlign": {148: "roi_align_param", 8266711: "roi_pooling_param"},
    "PSROIPooling": dict.fromkeys((10001, 149, 153), "psroi_pooling_param"),
    "BoxAnnotatorOHEM": dict.fromkeys((10000, 152), "box_annotator_ohem_param"),
    "SmoothL1Loss": dict.fromkeys((8266712, 148), "smooth_l1_loss_param"),
    # ncnn and Tengine 147, MobileNet-YOLO 149, Intel 159.
    "Reorg": dict.fromkeys((147, 149, 159), "reorg_param"),
    # SegNet 137, the YOLO forks 149, MobileNet-YOLO 150, X2Paddle 211.
    "Upsample": dict.fromkeys((137, 149, 150, 211, 300, 2203), "upsample_param"),
    # SegNet 45, TSN 137, PSPNet 152; DeconvNet; FlowNet.
    "BN": dict.fromkeys((45, 137, 152), "bn_param"),
    "Unpooling": {44: "unpooling_param"},
    "Correlation": {150: "correlation_param"},
    "RegionLoss": dict.fromkeys((600, 209), "region_loss_param"),
    "YoloDetectionOutput": {601: "yolo_detection_output_param"},
    "Yolov3DetectionOutput": {602: "yolov3_detection_output_param"},
    "Yolov3": {603: "yolov3_param"},
    "YoloSeg": {604: "yolo_seg_param"},
    "SegmentationEvaluate": {605: "segmentation_evaluate_param"},
    # PSPNet 143, mace 147, caffe2onnx 166, ncnn 205.
    "Interp": dict.fromkeys((143, 147, 166, 205, 308, 2210), "interp_param"),
    # ncnn 145, caffe2onnx and mace 164, MNN 212.
    "ShuffleChannel": dict.fromkeys((145, 164, 212, 213), "shuffle_channel_param"),
    "Axpy": dict.fromkeys((151, 210), "axpy_param"),
    "ReLU6": dict.fromkeys((211, 303, 2060, 100000), "relu6_param"),
    "Clip": dict.fromkeys((148, 305, 2202, 8787), "clip_param"),
    "Swish": dict.fromkeys((147, 148), "swish_param"),
    "L2Norm": {208: "l2_norm_param"},
    "GroupNorm": {210: "group_norm_param"},
    "Lstm": {210: "lstm_param"},
    "CenterLoss": {211: "center_loss_param"},
    "MarginInnerProduct": {147: "margin_inner_product_param"},
    "CtcLoss": {200: "ctc_loss_param"},
    "LabelsequenceAccuracy": {203: "labelsequence_accuracy_param"},
    "ContinuationIndicator": {200: "continuation_indicator_param"},
    # Force regularization.
    "Sparsify": {147: "sparsify_param"},
    "SymmetricRectify": {148: "symmetric_rectify_param"},
    # NVCaffe.
    "LSTM": {151: "recurrent_param"},
    "RNN": {151: "recurrent_param"},
}
#: (number, wire type) -> our field, in layers of every type: NVCaffe and Intel.
_EVERY_LAYER = {
    (145, VARINT): "forward_type", (146, VARINT): "backward_type", (147, VARINT): "forward_math",
    (148, VARINT): "backward_math", (149, VARINT): "debug", (150, VARINT): "cudnn_math_override",
    (149, LEN): "engine", (158, LEN): "quantization_param",
}  # fmt: skip
#: Message -> {(number, wire type): our field}.
_INSIDE = {
    "BatchNormParameter": {
        (5, LEN): "scale_filler", (6, LEN): "bias_filler", (7, VARINT): "scale_bias",
        (15, VARINT): "engine", (5, VARINT): "use_weight_bias", (6, VARINT): "bias_term",
        (7, LEN): "filler", (8, LEN): "bias_filler", (9, VARINT): "stats_batch_size",
        (10, VARINT): "relu",
    },
    "PoolingParameter": {(40, VARINT): "torch_pooling"},
    "InterpParameter": {(7, VARINT): "use_blob_size"},
    "UnpoolingParameter": {
        (12, VARINT): "unpool_size", (13, VARINT): "unpool_h", (14, VARINT): "unpool_w",
    },
    "TransformationParameter": {
        (8, LEN): "resize_param", (9, LEN): "noise_param", (10, LEN): "emit_constraint",
        (11, VARINT): "crop_h", (12, VARINT): "crop_w", (13, LEN): "distort_param",
        (14, LEN): "expand_param",
    },
}  # fmt: skip
#: Fields 1 to 5 of BNParameter in two forks; the rest have PSPNet's, which are the schema's own.
_SEGNET_BN = {1: "scale_filler", 2: "shift_filler", 3: "bn_mode"}
_WINDOWS_BN = {1: "scale_filler", 2: "shift_filler", 3: "var_eps", 4: "moving_average", 5: "decay"}


def _adopt(record: Record, raw: RawUnknown, name: str) -> bool:
    """Decode a raw field as the field ``name``; False when its bytes are something else."""
    number = record.record_type.fields[name].number
    carrier = Record(record.record_type)
    carrier.raw_unknown = [RawUnknown(number, raw.wire_type, raw.data)]
    try:
        found = decode(encode(carrier), record.message_name)
    except WireError:
        return False
    if found.raw_unknown or not found.has(name):
        return False
    record.merge(found)
    return True


def _given(record: Record, numbers: Iterable[int]) -> Iterable[RawUnknown]:
    """Those fields that the schema has under another meaning, as they stood in the file."""
    for field, value in list(record.items()):
        if field.number in numbers and isinstance(value, Record):
            yield RawUnknown(field.number, LEN, encode(value))


def _resolve_layer(layer: Record) -> None:
    fields = LAYER_FIELDS.get(layer.type, {})
    for raw in _given(layer, fields):
        name = fields[raw.number]
        clash = layer.record_type.by_number[raw.number].name
        if name != clash and _adopt(layer, raw, name):
            layer.clear(clash)
    left = []
    for raw in layer.raw_unknown:
        own = fields.get(raw.number) if raw.wire_type == LEN else None
        own = own or _EVERY_LAYER.get((raw.number, raw.wire_type))
        if own is None or not _adopt(layer, raw, own):
            left.append(raw)
    layer.raw_unknown = left


def _resolve_inside(message: Record) -> None:
    table = _INSIDE.get(message.message_name, {})
    left = []
    for raw in message.raw_unknown:
        name = table.get((raw.number, raw.wire_type))
        if name is None or not _adopt(message, raw, name):
            left.append(raw)
    message.raw_unknown = left


def _resolve_bn(parameter: Record, blobs: int) -> Record:
    """BNParameter by the wire types of its fields, else by the number of blobs."""
    marks = {(raw.number, raw.wire_type) for raw in parameter.raw_unknown}
    if marks & {(4, VARINT), (5, I32)}:
        names = _WINDOWS_BN
    elif (3, VARINT) in marks or (
        blobs == 2 and not any(parameter.has(n) for n in ("momentum", "eps", "frozen"))
    ):
        names = _SEGNET_BN
    else:
        return parameter
    data = encode(parameter)
    made = Record("BNParameter")
    made.line, made.origin = parameter.line, parameter.origin
    for number, wire, begin, end in walk(memoryview(data), 0, len(data)):
        raw = RawUnknown(number, wire, data[begin:end])
        known = made.record_type.by_number.get(number)
        name = names.get(number) or (known.name if known is not None else "")
        if not name or not _adopt(made, raw, name):
            made.raw_unknown.append(raw)
    return made


def _resolve_intel_pooling(layer: Record) -> None:
    """Intel's field 13 says whether padding counts in an average, not how sizes are rounded."""
    pooling = layer.pooling_param
    if pooling.has("round_mode"):
        pooling.avg_include_pad = pooling.round_mode != "CEIL"
        pooling.clear("round_mode")


def resolve_dialects(net: Record) -> Record:
    """Give the layers of a binary file's net the parameters that forks stored under own numbers.

    Args:
        net: a NetParameter in the current format (see :func:`upgrade_net`), changed in place.

    Returns:
        The net. Fields that no known fork has stay as they were (``raw_unknown``).
    """
    for layer in net.layer:
        _resolve_layer(layer)
        for field, value in list(layer.items()):
            if field.name == "bn_param":
                layer.bn_param = _resolve_bn(value, len(layer.blobs))
            elif isinstance(value, Record):
                _resolve_inside(value)
    if any(layer.has("engine") for layer in net.layer):
        for layer in net.layer:
            if layer.type == "Pooling" and layer.has("pooling_param"):
                _resolve_intel_pooling(layer)
    return net


def net_from_caffemodel(path: str | os.PathLike[str]) -> Record:
    """The net that a binary caffemodel describes, without its weights.

    The file's own layers, parameters and wiring (Caffe stores them; its Split layers too), in the
    current format and with the fields of forks under our names.

    Raises:
        SchemaError: the file is missing, no caffemodel, or holds no layer.
    """
    net = resolve_dialects(upgrade_net(read_binary(path, "NetParameter")))
    if not net.layer:
        raise SchemaError(f"{path}: has no layers; it is not a caffemodel. Is it a mean image?")
    for layer in net.layer:
        layer.clear("blobs")
        layer.origin = str(path)
    return net
