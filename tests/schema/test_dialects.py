from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.errors import SchemaError
from caffe_bridge.graph import load_net, read_net
from caffe_bridge.net import Net
from caffe_bridge.schema import (
    Record,
    decode,
    encode,
    make_blob,
    net_from_caffemodel,
    resolve_dialects,
    write_binary,
)
from caffe_bridge.schema.dialects import LAYER_FIELDS
from caffe_bridge.schema.messages import record_type
from caffe_bridge.schema.record import RawUnknown
from tests.helpers import SHARED, needs_shared

VARINT, LEN = 0, 2
MODELS = SHARED / "models_fork"
CLOSE = 1e-4


def layer_bytes(kind: str, *fields: bytes) -> bytes:
    """A layer of a net, its fields encoded by hand behind name and type."""
    return b"\x0a\x01l" + b"\x12" + bytes([len(kind)]) + kind.encode() + b"".join(fields)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def real(number: int, value: float) -> bytes:
    return varint(number << 3 | 5) + np.float32(value).tobytes()


def resolved(kind: str, *fields: bytes) -> Record:
    layer = layer_bytes(kind, *fields)
    net = decode(field(100, layer), "NetParameter")
    return resolve_dialects(net).layer[0]


@pytest.mark.parametrize("number", [202, 8781])
def test_permute(number: int) -> None:
    layer = resolved("Permute", field(number, field(1, 0) + field(1, 2)))
    assert layer.permute_param.order == [0, 2]
    assert layer.raw_unknown == []


def test_known_numbers_that_mean_something_else() -> None:
    layer = resolved("Sparsify", field(147, real(1, 0.5)))
    assert not layer.has("swish_param")
    kind = record_type("LayerParameter").fields["sparsify_param"].message
    assert kind is not None
    first = kind.by_number[1].name
    assert getattr(layer.sparsify_param, first) == 0.5
    swish = resolved("Swish", field(147, real(1, 0.5)))
    assert swish.swish_param.beta == 0.5

    rectify = resolved("SymmetricRectify", field(148, real(1, 0.25)))
    assert rectify.has("symmetric_rectify_param") and not rectify.has("clip_param")
    clip = resolved("Clip", field(148, real(1, -1) + real(2, 1)))
    assert (clip.clip_param.min, clip.clip_param.max) == (-1, 1)

    shuffle = resolved("ShuffleChannel", field(145, field(1, 3)))
    assert shuffle.shuffle_channel_param.group == 3 and not shuffle.has("parameter_param")
    reorg = resolved("Reorg", field(147, field(1, 2) + field(2, 1)))
    assert (reorg.reorg_param.stride, reorg.reorg_param.reverse) == (2, True)
    intel = resolved("SmoothL1Loss", field(148, real(1, 3)))
    assert intel.smooth_l1_loss_param.sigma == 3 and not intel.has("clip_param")


@pytest.mark.parametrize("kind", sorted(LAYER_FIELDS))
def test_every_number_of_the_table(kind: str) -> None:
    for number, name in LAYER_FIELDS[kind].items():
        layer = resolved(kind, field(number, b""))
        assert layer.has(name), (number, name)
        others = [f.name for f, value in layer.items() if isinstance(value, Record)]
        assert others == [name]
        assert layer.raw_unknown == []


def test_other_types_and_numbers_stay_as_they_are() -> None:
    layer = resolved("Convolution", field(202, field(1, 3)), field(106, field(1, 8)))
    assert layer.raw_unknown == [RawUnknown(202, LEN, field(1, 3))]
    assert layer.convolution_param.num_output == 8
    assert decode(encode(layer), "LayerParameter") == layer


def test_bytes_that_do_not_fit_stay_as_they_are() -> None:
    broken = resolved("Permute", field(202, b"\xff"))
    assert broken.raw_unknown == [RawUnknown(202, LEN, b"\xff")] and not broken.has("permute_param")


def test_nvcaffe() -> None:
    batch_norm = field(5, field(1, b"constant") + real(2, 2)) + field(7, 1) + field(15, 2)
    layer = resolved("BatchNorm", field(139, batch_norm), field(145, 2), field(149, 1))
    p = layer.batch_norm_param
    assert p.scale_filler.value == 2 and p.scale_bias is True and p.engine == "CUDNN"
    assert layer.has("forward_type") and layer.debug is True
    assert not layer.raw_unknown and not p.raw_unknown
    pooling = resolved("Pooling", field(121, field(40, 1)))
    assert pooling.pooling_param.torch_pooling is True


def test_intel() -> None:
    inside = field(5, 1) + field(6, 0) + field(7, real(2, 3)) + field(10, 1)
    layer = resolved("BatchNorm", field(139, inside), field(149, b"MKLDNN"))
    p = layer.batch_norm_param
    assert (p.use_weight_bias, p.bias_term, p.relu, p.filler.value) == (True, False, True, 3)
    assert layer.engine == "MKLDNN"
    for value in (0, 1):
        pooling = resolved("Pooling", field(121, field(13, value)), field(149, b"CAFFE"))
        assert pooling.pooling_param.avg_include_pad is bool(value)
        assert not pooling.pooling_param.has("round_mode")
    assert resolved("Pooling", field(121, field(13, 1))).pooling_param.round_mode == "FLOOR"


def test_pspnet_segnet_and_deconvnet() -> None:
    interp = resolved("Interp", field(143, field(1, 60) + field(2, 90)))
    assert (interp.interp_param.height, interp.interp_param.width) == (60, 90)
    upsample = resolved("Upsample", field(137, field(1, 2)))
    assert upsample.upsample_param.scale == 2 and not upsample.has("embed_param")
    unpooling = resolved("Unpooling", field(44, field(2, 2) + field(12, 14))).unpooling_param
    assert (unpooling.kernel_size, unpooling.unpool_size) == (2, 14)


def test_ssd_transformations() -> None:
    resize = field(2, 1) + field(3, 300) + field(4, 200)
    layer = resolved("AnnotatedData", field(100, field(8, resize) + field(11, 7)), field(200, b""))
    p = layer.transform_param
    assert (p.resize_param[0].height, p.resize_param[0].width, p.crop_h) == (300, 200, 7)


def test_bn_of_three_forks() -> None:
    one = real(2, 1)
    segnet = resolved("BN", field(45, field(1, one) + field(2, b"") + field(3, 1))).bn_param
    assert (segnet.scale_filler.value, segnet.bn_mode) == (1, "INFERENCE")
    assert not segnet.has("slope_filler") and not segnet.raw_unknown
    inside = field(1, one) + real(3, 0.5) + field(4, 1) + real(5, 0.25)
    windows = resolved("BN", field(1320, inside)).bn_param
    assert (windows.var_eps, windows.moving_average, windows.decay) == (0.5, True, 0.25)
    pspnet = resolved("BN", field(137, field(1, one) + real(3, 0.5) + real(4, 2))).bn_param
    assert (pspnet.slope_filler.value, pspnet.momentum, pspnet.eps) == (1, 0.5, 2)


def test_bn_by_the_number_of_blobs() -> None:
    net = Record("NetParameter")
    layer = net.add("layer", name="l", type="BN")
    layer.mutable("bn_param").mutable("slope_filler").value = 1.0
    layer.blobs = [make_blob(np.zeros(1, np.float32))] * 2
    assert resolve_dialects(net).layer[0].bn_param.scale_filler.value == 1


def test_net_from_caffemodel(tmp_path: Path) -> None:
    net = Record("NetParameter", name="n")
    layer = net.add("layer", name="l", type="Permute", bottom=["x"], top=["y"])
    layer.raw_unknown = [RawUnknown(202, LEN, field(1, 1))]
    layer.blobs = [make_blob(np.zeros(1, np.float32))]
    made = net_from_caffemodel(write_binary(net, tmp_path / "net.caffemodel"))
    assert made.layer[0].permute_param.order == [1]
    assert not made.layer[0].has("blobs")
    mean = write_binary(Record("NetParameter", name="n"), tmp_path / "empty.caffemodel")
    with pytest.raises(SchemaError, match="has no layers"):
        net_from_caffemodel(mean)


@needs_shared
@pytest.mark.parametrize("model", ["face_mask", "plate_ssd", "ultraface_rfb320"])
def test_real_files_say_what_their_prototxt_says(model: str) -> None:
    stored = {x.name: x for x in net_from_caffemodel(MODELS / model / "weights.caffemodel").layer}
    compared = 0
    for layer in read_net(MODELS / model / "deploy.prototxt").layer:
        for name in ("permute_param", "prior_box_param", "detection_output_param"):
            if layer.has(name):
                mine, theirs = getattr(stored[layer.name], name), getattr(layer, name)
                assert {f.name: v for f, v in theirs.items()} == {
                    f.name: v for f, v in mine.items() if theirs.has(f.name)
                }
                compared += 1
    assert compared >= 8
    assert not any(layer.raw_unknown for layer in stored.values())


@needs_shared
@pytest.mark.golden
@pytest.mark.parametrize("model", ["face_mask", "ultraface_rfb320"])
def test_nets_run_from_the_caffemodel_alone(model: str) -> None:
    path = MODELS / model / "weights.caffemodel"
    net = Net(load_net(net_from_caffemodel(path)))
    assert net.load(path) == []
    with np.load(MODELS / model / "io.npz") as stored:
        inputs = {k[3:]: torch.from_numpy(stored[k]) for k in stored.files if k.startswith("in/")}
        wanted = {k[4:]: stored[k] for k in stored.files if k.startswith("out/")}
    with torch.no_grad():
        net(inputs)
    assert wanted
    for name, want in wanted.items():
        got = net.values[name].numpy()
        assert np.abs(got.reshape(want.shape) - want).max() <= CLOSE * np.abs(want).max()
