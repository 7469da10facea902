"""V0 layers (``layers { layer { ... } }``) to V1, as Caffe's upgrade_proto.cpp does."""

from __future__ import annotations

from typing import Any

from caffe_bridge.errors import UpgradeError
from caffe_bridge.schema.record import RawUnknown, Record

#: V0 type -> V1 enum name.
TYPES = {
    "accuracy": "ACCURACY", "bnll": "BNLL", "concat": "CONCAT", "conv": "CONVOLUTION",
    "data": "DATA", "dropout": "DROPOUT", "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN", "hdf5_data": "HDF5_DATA", "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL", "images": "IMAGE_DATA", "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT", "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS", "pool": "POOLING", "relu": "RELU",
    "sigmoid": "SIGMOID", "softmax": "SOFTMAX", "softmax_loss": "SOFTMAX_LOSS", "split": "SPLIT",
    "tanh": "TANH", "window_data": "WINDOW_DATA",
}  # fmt: skip
_CONV, _POOL, _IP = "convolution_param", "pooling_param", "inner_product_param"
_DATA = {"data": "data_param", "images": "image_data_param", "window_data": "window_data_param",
         "hdf5_data": "hdf5_data_param"}  # fmt: skip
#: V0 field -> {V0 type: (V1 message, V1 field)}.
_FIELDS: dict[str, dict[str, tuple[str, str]]] = {
    "num_output": {"conv": (_CONV, "num_output"), "innerproduct": (_IP, "num_output")},
    "biasterm": {"conv": (_CONV, "bias_term"), "innerproduct": (_IP, "bias_term")},
    "weight_filler": {"conv": (_CONV, "weight_filler"), "innerproduct": (_IP, "weight_filler")},
    "bias_filler": {"conv": (_CONV, "bias_filler"), "innerproduct": (_IP, "bias_filler")},
    "pad": {"conv": (_CONV, "pad"), "pool": (_POOL, "pad")},
    "kernelsize": {"conv": (_CONV, "kernel_size"), "pool": (_POOL, "kernel_size")},
    "group": {"conv": (_CONV, "group")},
    "stride": {"conv": (_CONV, "stride"), "pool": (_POOL, "stride")},
    "pool": {"pool": (_POOL, "pool")},
    "dropout_ratio": {"dropout": ("dropout_param", "dropout_ratio")},
    "local_size": {"lrn": ("lrn_param", "local_size")},
    "alpha": {"lrn": ("lrn_param", "alpha")},
    "beta": {"lrn": ("lrn_param", "beta")},
    "k": {"lrn": ("lrn_param", "k")},
    "source": {kind: (message, "source") for kind, message in _DATA.items()}
    | {"infogain_loss": ("infogain_loss_param", "source")},
    "scale": dict.fromkeys(TYPES, ("transform_param", "scale")),
    "meanfile": dict.fromkeys(TYPES, ("transform_param", "mean_file")),
    "cropsize": dict.fromkeys(TYPES, ("transform_param", "crop_size")),
    "mirror": dict.fromkeys(TYPES, ("transform_param", "mirror")),
    "batchsize": {kind: (message, "batch_size") for kind, message in _DATA.items()},
    "rand_skip": {"data": ("data_param", "rand_skip"), "images": ("image_data_param", "rand_skip")},
    "shuffle_images": {"images": ("image_data_param", "shuffle")},
    "new_height": {"images": ("image_data_param", "new_height")},
    "new_width": {"images": ("image_data_param", "new_width")},
    "concat_dim": {"concat": ("concat_param", "concat_dim")},
    "det_fg_threshold": {"window_data": ("window_data_param", "fg_threshold")},
    "det_bg_threshold": {"window_data": ("window_data_param", "bg_threshold")},
    "det_fg_fraction": {"window_data": ("window_data_param", "fg_fraction")},
    "det_context_pad": {"window_data": ("window_data_param", "context_pad")},
    "det_crop_mode": {"window_data": ("window_data_param", "crop_mode")},
    "hdf5_output_param": {"hdf5_output": ("", "hdf5_output_param")},
} | {name: dict.fromkeys(TYPES, ("", name)) for name in ("blobs", "blobs_lr", "weight_decay")}


def is_v0(net: Record) -> bool:
    """Whether any layer of the net is written in V0."""
    return any(layer.has("layer") for layer in net.layers)


def raw_unknown_of(old: Record, made: Record) -> list[RawUnknown]:
    """Unknown binary fields of a layer, without those whose number means another one in the new.

    Written under their number, these would be read as that field.
    """
    return [raw for raw in old.raw_unknown if raw.number not in made.record_type.by_number]


def _upgrade_layer(connection: Record) -> Record:
    old = connection.layer
    made = Record(connection.record_type)
    made.line, made.origin = connection.line, connection.origin
    made.unknown = connection.unknown + old.unknown
    made.raw_unknown = connection.raw_unknown + raw_unknown_of(old, made)
    if old.has("name"):
        made.name = old.name
    if old.type not in TYPES:
        raise UpgradeError(
            f"{old.name or '?'} at {old.where()}: V0 layer type '{old.type}' has no modern "
            f"equivalent; known are {', '.join(TYPES)}."
        )
    made.type = TYPES[old.type]
    for name in ("bottom", "top"):
        if connection.has(name):
            setattr(made, name, getattr(connection, name))
    for field, value in old.items():
        if field.name in ("name", "type", "new_num", "new_channels"):  # V1 has none of these
            continue
        place = _FIELDS.get(field.name, {}).get(old.type)
        if place is None:
            raise UpgradeError(
                f"{old.name} at {old.where()}: V0 field '{field.name}' has no meaning for "
                f"layer type '{old.type}'; remove it."
            )
        _put(made, place, value)
    return made


def _put(layer: Record, place: tuple[str, str], value: Any) -> None:
    message, name = place
    target = layer.mutable(message) if message else layer
    if target.record_type.fields[name].repeated and not isinstance(value, list):
        target.append(name, value)
    else:
        setattr(target, name, value)


def fold_padding(net: Record) -> None:
    """Move the pad of every ``padding`` layer into the conv or pool that reads it.

    Raises:
        UpgradeError: another layer reads it, or one of the two has several blobs.
    """
    maker: dict[str, Record] = {}
    for connection in net.layers:
        for index, bottom in enumerate(connection.bottom):
            source = maker.get(bottom)
            if source is None or source.layer.type != "padding":
                continue
            layer = connection.mutable("layer")
            if layer.type not in ("conv", "pool") or len(connection.bottom) != 1:
                raise UpgradeError(
                    f"{layer.name} at {layer.where()}: reads the padding layer '{bottom}', but "
                    "only conv and pool layers with one bottom can take a pad."
                )
            if len(source.bottom) != 1 or len(source.top) != 1:
                raise UpgradeError(
                    f"{source.layer.name} at {source.layer.where()}: a padding layer has one "
                    f"bottom and one top, found {len(source.bottom)} and {len(source.top)}."
                )
            layer.pad = source.layer.pad
            connection.bottom[index] = source.bottom[0]
        maker.update(dict.fromkeys(connection.top, connection))
    net.layers = [c for c in net.layers if c.layer.type != "padding"]


def upgrade_v0(net: Record) -> None:
    """Rewrite V0 layers as V1 layers, in place.

    Raises:
        UpgradeError: a type or field that V1 does not have.
    """
    fold_padding(net)
    net.layers = [_upgrade_layer(c) if c.has("layer") else c for c in net.layers]
