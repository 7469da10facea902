"""Every public name of pycaffe: it exists and does what it did."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import BackendError, BridgeError
from caffe_bridge.pycaffe import layers as L  # noqa: N812
from caffe_bridge.pycaffe import params as P  # noqa: N812
from caffe_bridge.pycaffe.proto import caffe_pb2
from tests.pycaffe.nets import DEPLOY, SOLVER, TRAIN, write

NAMES = {
    "": "Net SGDSolver NesterovSolver AdaGradSolver RMSPropSolver AdaDeltaSolver AdamSolver NCCL "
    "Timer init_log log set_mode_cpu set_mode_gpu set_device Layer get_solver layer_type_list "
    "set_random_seed solver_count set_solver_count solver_rank set_solver_rank set_multiprocess "
    "has_nccl __version__ TRAIN TEST Classifier Detector io layers params NetSpec to_proto",
    ".io": "blobproto_to_array array_to_blobproto arraylist_to_blobprotovecor_str "
    "arraylist_to_blobprotovector_str blobprotovector_str_to_arraylist array_to_datum "
    "datum_to_array Transformer load_image resize_image oversample",
    ".net_spec": "param_name_dict to_proto assign_proto Top Function NetSpec Layers Parameters "
    "layers params",
    ".coord_map": "conv_params crop_params coord_map compose inverse coord_map_from_to crop "
    "UndefinedMapException AxisMismatchException",
    ".draw": "draw_net draw_net_to_file get_pydot_graph",
    ".classifier": "Classifier",
    ".detector": "Detector",
    ".proto.caffe_pb2": "NetParameter LayerParameter BlobProto BlobProtoVector Datum Phase TRAIN "
    "TEST SolverParameter SolverState NetState V1LayerParameter FillerParameter",
}
SIGNATURES: list[tuple[Callable[..., Any], str]] = [
    (caffe.Net.forward, "self blobs=None start=None end=None **kwargs"),
    (caffe.Net.backward, "self diffs=None start=None end=None **kwargs"),
    (caffe.Net.forward_all, "self blobs=None **kwargs"),
    (caffe.Net.forward_backward_all, "self blobs=None diffs=None **kwargs"),
    (caffe.Net.set_input_arrays, "self data labels"),
    (caffe.Classifier, "model_file pretrained_file image_dims=None mean=None input_scale=None "
     "raw_scale=None channel_swap=None"),
    (caffe.Classifier.predict, "self inputs oversample=True"),
    (caffe.Detector, "model_file pretrained_file mean=None input_scale=None raw_scale=None "
     "channel_swap=None context_pad=None"),
    (caffe.Detector.detect_windows, "self images_windows"),
    (caffe.Detector.detect_selective_search, "self image_fnames"),
    (caffe.Detector.crop, "self im window"),
    (caffe.io.blobproto_to_array, "blob return_diff=False"),
    (caffe.io.array_to_blobproto, "arr diff=None"),
    (caffe.io.array_to_datum, "arr label=None"),
    (caffe.io.load_image, "filename color=True"),
    (caffe.io.resize_image, "im new_dims interp_order=1"),
    (caffe.io.oversample, "images crop_dims"),
    (caffe.io.Transformer.preprocess, "self in_ data"),
    (caffe.io.Transformer.deprocess, "self in_ data"),
    (caffe.io.Transformer.set_transpose, "self in_ order"),
    (caffe.io.Transformer.set_channel_swap, "self in_ order"),
    (caffe.io.Transformer.set_raw_scale, "self in_ scale"),
    (caffe.io.Transformer.set_mean, "self in_ mean"),
    (caffe.io.Transformer.set_input_scale, "self in_ scale"),
    (caffe.draw.draw_net, "caffe_net rankdir='LR' ext='png' phase=None display_lrm=False"),
    (caffe.draw.draw_net_to_file, "caffe_net filename rankdir='LR' phase=None display_lrm=False"),
    (caffe.draw.get_pydot_graph, "caffe_net rankdir label_edges=True phase=None "
     "display_lrm=False"),
    (caffe.coord_map.crop, "top_from top_to"),
    (caffe.Layer.setup, "self bottom top"),
    (caffe.Layer.reshape, "self bottom top"),
    (caffe.Layer.forward, "self bottom top"),
    (caffe.Layer.backward, "self top propagate_down bottom"),
]  # fmt: skip


@pytest.fixture
def net() -> caffe.Net:
    return caffe.Net(write("deploy.prototxt", DEPLOY), caffe.TEST, seed=0)


@pytest.fixture
def solver() -> caffe.PySolver:
    write("train.prototxt", TRAIN)
    return caffe.SGDSolver(write("solver.prototxt", SOLVER))


@pytest.mark.parametrize("module", NAMES)
def test_names(module: str) -> None:
    found = importlib.import_module(f"caffe_bridge.pycaffe{module}")
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


@pytest.mark.parametrize(
    ("function", "wanted"), SIGNATURES, ids=[f.__qualname__ for f, _ in SIGNATURES]
)
def test_signatures(function: Callable[..., Any], wanted: str) -> None:
    """Names, order and defaults, so that calls by position and by name work."""
    shown = []
    for name, parameter in inspect.signature(function).parameters.items():
        star = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        shown.append(star + name + default)
    assert shown == wanted.split()


def test_every_form_of_the_constructor(net: caffe.Net) -> None:
    net.save("w.caffemodel")
    text = DEPLOY + 'layer { name: "deep" type: "TanH" bottom: "prob" top: "t" include {'
    path = write("forms.prototxt", text + ' min_level: 1 stage: "go" } }\n')
    want = net.params["ip"][0].data
    forms: list[tuple[tuple[Any, ...], dict[str, Any], bool, bool]] = [
        ((path, "w.caffemodel", caffe.TEST), {}, True, False),
        ((path, "w.caffemodel"), {"phase": caffe.TEST}, True, False),
        ((path,), {"weights": "w.caffemodel", "phase": caffe.TEST}, True, False),
        ((path, Path("w.caffemodel"), caffe.TEST), {}, True, False),
        ((path, caffe.TEST), {}, False, False),
        ((path, caffe.TEST), {"weights": "w.caffemodel"}, True, False),
        ((path, caffe.TEST, 1, ["go"], "w.caffemodel"), {}, True, True),
        ((path, caffe.TEST, 1, ["other"]), {}, False, False),
        ((path, caffe.TEST, 0, ["go"]), {}, False, False),
        ((path, caffe.TEST), {"level": 2, "stages": ["go", "x"]}, False, True),
        ((), {"network_file": path, "phase": caffe.TRAIN, "level": 1, "stages": ["go"]}, False,
         True),
    ]  # fmt: skip
    for args, keywords, loaded, deep in forms:
        made = caffe.Net(*args, **keywords)
        assert np.array_equal(made.params["ip"][0].data, want) == loaded, (args, keywords)
        assert ("deep" in made.layer_dict) == deep, (args, keywords)
    for wrong in ((path,), (path, "w.caffemodel"), (path, 2), (path, 0, 0, [], "w.caffemodel", 0)):
        with pytest.raises(BridgeError, match=r"^Net (needs|takes)"):
            caffe.Net(*wrong)


def test_what_a_net_shows(net: caffe.Net) -> None:
    assert list(net.blobs) == net._blob_names == ["data", "conv", "ip", "prob"]
    assert {n: [b.data.shape for b in blobs] for n, blobs in net.params.items()} == {
        "a/conv": [(4, 3, 3, 3), (4,)], "ip": [(5, 64), (5,)],
    }  # fmt: skip
    assert [layer.type for layer in net.layers] == [
        "Input", "Convolution", "ReLU", "InnerProduct", "Softmax",
    ]  # fmt: skip
    assert len(net.layers[1].blobs) == 2
    assert list(net.layer_dict) == list(net._layer_names)
    assert (net.inputs, net.outputs) == (["data"], ["prob"])
    assert (net._inputs, net._outputs) == ([0], [3])
    assert net.top_names["relu"] == net.bottom_names["relu"] == ["conv"]
    assert net._top_ids(2) == net._bottom_ids(2) == [1]
    assert net.blob_loss_weights == dict.fromkeys(net.blobs, 0)
    assert net._blob_loss_weights == [0] * 4
    assert net._blobs[2] is net.blobs["ip"]


def test_what_a_blob_shows(net: caffe.Net) -> None:
    blob = net.blobs["conv"]
    assert (blob.num, blob.channels, blob.height, blob.width) == (2, 4, 4, 4)
    assert (list(blob.shape), blob.count) == ([2, 4, 4, 4], 128)
    assert blob.data.shape == blob.diff.shape == (2, 4, 4, 4)
    assert blob.data.dtype == blob.diff.dtype == np.float32
    blob.reshape(1, 2, 3)
    assert (blob.count, blob.width) == (6, 1)
    blob.diff[...] = 1
    assert blob.diff.sum() == 6


def test_passes_in_part_and_whole(net: caffe.Net) -> None:
    data = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)
    out = net.forward(blobs=["conv"], data=data)
    assert set(out) == {"prob", "conv"}
    assert set(net.forward(end="ip")) == {"ip"}
    assert set(net.forward(["data"], "ip", "prob")) == {"prob", "data"}
    assert net._forward(0, 4) == 0
    assert set(net.backward(diffs=["ip"])) == {"data", "ip"}
    assert set(net.backward(start="prob", end="ip")) == {"conv"}
    assert net._backward(4, 0) is None
    more = np.concatenate([data, data[:1]])
    assert net.forward_all(blobs=["ip"], data=more)["ip"].shape == (3, 5)
    forced = caffe.Net(write("f.prototxt", "force_backward: true " + DEPLOY), caffe.TEST)
    values, grads = forced.forward_backward_all(data=more, prob=np.ones((3, 5)))
    assert (values["prob"].shape, grads["data"].shape) == ((3, 5), more.shape)


def test_hooks_run_in_order(net: caffe.Net) -> None:
    seen: list[str] = []
    for hook in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(net, hook)(lambda i, hook=hook: seen.append(f"{hook} {i}"))
    net.forward(start="ip", end="prob")
    net.backward(start="prob", end="prob")
    assert seen == ["before_forward 3", "after_forward 3", "before_forward 4", "after_forward 4",
                    "before_backward 4", "after_backward 4"]  # fmt: skip


def test_weights_in_files_and_shared(net: caffe.Net) -> None:
    other = caffe.Net("deploy.prototxt", caffe.TEST, seed=1)
    weight, mine = net.params["ip"][0], other.params["ip"][0]
    for save, load in ((net.save, other.copy_from), (net.save_hdf5, other.load_hdf5)):
        mine.data[...] = 0
        save("weights.h5" if save == net.save_hdf5 else "weights.caffemodel")
        load("weights.h5" if save == net.save_hdf5 else "weights.caffemodel")
        assert np.array_equal(mine.data, weight.data)
    other.share_with(net)
    weight.data.flat = np.arange(weight.count)
    assert np.array_equal(other.params["ip"][0].data, weight.data)
    weight.diff[...] = 1
    net.clear_param_diffs()
    assert not other.params["ip"][0].diff.any()
    net.blobs["data"].reshape(5, 3, 6, 6)
    net.reshape()
    assert net.blobs["prob"].shape == (5, 5)


def test_memory_data() -> None:
    text = """layer { name: "m" type: "MemoryData" top: "data" top: "label" memory_data_param {
      batch_size: 1 channels: 2 height: 1 width: 1 } }"""
    made = caffe.Net(write("m.prototxt", text), caffe.TEST)
    data = np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1)
    for give in (made.set_input_arrays, made._set_input_arrays):
        give(data, np.array([7, 8], np.float32))
        made.forward()
        assert made.blobs["data"].data.ravel().tolist() == [0, 1]
        assert made.blobs["label"].data.tolist() == [7]


def test_solvers(solver: caffe.PySolver) -> None:
    assert (solver.iter, len(solver.test_nets)) == (0, 1)
    assert isinstance(solver.net, caffe.Net)
    assert (solver.param.max_iter, solver.param.display) == (20, 100)
    assert solver.param.layer_wise_reduce in (True, False)
    assert solver.lr == pytest.approx(0.01)
    calls: list[str] = []
    solver.add_callback(lambda: calls.append("start"), lambda: calls.append("ready"))
    solver.step(2)
    assert (solver.iter, calls) == (2, ["start", "ready"] * 2)
    solver.snapshot()
    solver.step(1)
    solver.restore("model_iter_2.solverstate")
    assert solver.iter == 2
    solver.apply_update()
    other = caffe.Net("train.prototxt", caffe.TRAIN)
    solver.share_weights(other)
    solver.net.params["ip"][0].data[...] = 3
    assert (other.params["ip"][0].data == 3).all()
    again = caffe.get_solver("solver.prototxt")
    again.solve("model_iter_2.solverstate")
    assert again.iter == 20


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_a_class_for_each_rule(kind: str) -> None:
    write("train.prototxt", TRAIN)
    base = SOLVER if kind in ("SGD", "Nesterov") else SOLVER.replace("momentum: 0.9", "")
    text = base + ("momentum: 0.9 momentum2: 0.99" if kind in ("AdaDelta", "Adam") else "")
    made = getattr(caffe, f"{kind}Solver")(write("s.prototxt", text))
    made.step(1)
    assert (made.param.type, made.iter) == (kind, 1)


def test_net_spec() -> None:
    n = caffe.NetSpec()
    n.data, n.label = L.DummyData(shape=[{"dim": [2, 3]}, {"dim": [2]}], ntop=2)
    n.ip = L.InnerProduct(n.data, num_output=4, param=[{"lr_mult": 1}, {"lr_mult": 2}])
    n.relu = L.ReLU(n.ip, in_place=True)
    n["loss"] = L.SoftmaxWithLoss(n.relu, n.label)
    n.quiet = L.Silence(n.label, ntop=0)
    proto = n.to_proto()
    assert [layer.name for layer in proto.layer] == ["data", "ip", "relu", "loss", "quiet"]
    assert caffe.to_proto(n.loss).layer[-1].type == "SoftmaxWithLoss"
    assert n.ip.to_proto().layer[-1].inner_product_param.num_output == 4
    assert (P.Pooling.AVE, P.Eltwise.SUM) == (1, 1)
    assert caffe.net_spec.param_name_dict()["InnerProduct"] == "inner_product"
    assert isinstance(n.ip, caffe.Top) and isinstance(n.quiet, caffe.net_spec.Function)
    built = caffe.Net(write("made.prototxt", str(proto)), caffe.TRAIN)
    assert list(built.forward()) == ["loss"]
    assert caffe.draw.draw_net(proto, ext="svg").startswith(b"<svg")
    m = caffe.NetSpec()
    m.data = L.Input(shape={"dim": [1, 1, 9, 9]})
    m.conv = L.Convolution(m.data, kernel_size=3, pad=2, num_output=1)
    crop = caffe.coord_map.crop(m.conv, m.data)
    assert (crop.fn.type_name, crop.fn.inputs) == ("Crop", (m.conv, m.data))
    assert crop.fn.params == {"crop_param": {"axis": 2, "offset": [1]}}


def test_io() -> None:
    image = np.random.default_rng(0).integers(0, 255, (6, 7, 3)).astype(np.uint8)
    cv2.imwrite("p.png", image)
    loaded = caffe.io.load_image("p.png")
    np.testing.assert_allclose(loaded, image[..., ::-1] / 255, rtol=1e-6)
    assert caffe.io.resize_image(loaded, (3, 4)).shape == (3, 4, 3)
    assert caffe.io.oversample([loaded], (4, 4)).shape == (10, 4, 4, 3)
    datum = caffe.io.array_to_datum(image.transpose(2, 0, 1), 4)
    assert (datum.label, caffe.io.datum_to_array(datum).shape) == (4, (3, 6, 7))
    blob = caffe.io.array_to_blobproto(loaded, loaded + 1)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob), loaded)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob, True), loaded + 1)
    text = caffe.io.arraylist_to_blobprotovecor_str([loaded])
    np.testing.assert_array_equal(caffe.io.blobprotovector_str_to_arraylist(text)[0], loaded)
    made = caffe.io.Transformer({"data": (1, 3, 4, 4)})
    made.set_transpose("data", (2, 0, 1))
    made.set_channel_swap("data", (2, 1, 0))
    made.set_raw_scale("data", 255)
    made.set_mean("data", np.array([1, 2, 3]))
    made.set_input_scale("data", 0.5)
    ready = made.preprocess("data", loaded)
    assert ready.shape == (3, 4, 4)
    small = caffe.io.resize_image(loaded, (4, 4))
    np.testing.assert_allclose(made.deprocess("data", ready), small, atol=1e-5)


def test_what_is_about_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert (caffe.TRAIN, caffe.TEST) == (caffe_pb2.TRAIN, caffe_pb2.TEST) == (0, 1)
    assert {"Convolution", "Python", "SoftmaxWithLoss"} <= set(caffe.layer_type_list())
    caffe.set_random_seed(1)
    caffe.init_log(2)
    caffe.log("hello")
    assert "hello" in capsys.readouterr().err
    timer = caffe.Timer()
    timer.start()
    timer.stop()
    assert 0 <= timer.ms < 1000
    assert (caffe.solver_count(), caffe.solver_rank(), caffe.has_nccl()) == (1, 0, False)
    caffe.set_solver_count(1)
    caffe.set_solver_rank(0)
    caffe.set_multiprocess(False)
    for call in (lambda: caffe.NCCL(None, ""), caffe.NCCL.new_uid,
                 lambda: caffe.set_solver_count(2)):  # fmt: skip
        with pytest.raises(BackendError, match="torchrun"):
            call()
