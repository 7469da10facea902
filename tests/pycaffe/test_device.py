"""Computing where numpy cannot look: the CPU plays a device with memory of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import BackendError
from caffe_bridge.pycaffe import place as places
from caffe_bridge.pycaffe.place import HOST, Place, current_place, register_place
from tests.pycaffe.nets import DEPLOY, SOLVER, TRAIN, write


@pytest.fixture
def device() -> Iterator[Place]:
    made = Place(torch.device("cpu"), separate=True)
    register_place(0, made)
    yield made
    register_place(0, None)
    caffe.set_mode_cpu()


@pytest.fixture
def other(device: Place) -> Iterator[Place]:
    assert device.separate
    made = Place(torch.device("cpu"), separate=True)
    register_place(1, made)
    yield made
    register_place(1, None)
    caffe.set_device(0)


def deploy() -> caffe.Net:
    return caffe.Net(write("deploy.prototxt", DEPLOY), caffe.TEST, seed=0)


def counts(place: Place) -> tuple[int, int]:
    """Uploads and downloads since the last call."""
    found = place.uploads, place.downloads
    place.uploads = place.downloads = 0
    return found


def test_without_gpu_one_warning_and_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(places._choice, "warned", False)
    with pytest.warns(RuntimeWarning, match="no CUDA device") as seen:
        caffe.set_mode_gpu()
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caffe.set_mode_gpu()
        caffe.set_device(3)
    net = deploy()
    net.forward()
    assert net.executor.place is current_place() is HOST
    caffe.set_mode_cpu()
    caffe.set_device(0)


def test_devices_that_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="numbered from 0"):
        caffe.set_device(-1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BackendError, match=r"set_device\(2\): this machine has 2 CUDA"):
        caffe.set_device(2)
    caffe.set_device(1)
    caffe.set_mode_gpu()
    assert current_place().device == torch.device("cuda", 1)
    assert current_place().separate
    register_place(1, None)
    caffe.set_mode_cpu()
    caffe.set_device(0)


def test_numbers_are_those_of_the_cpu(device: Place) -> None:
    net = deploy()
    net.blobs["data"].data[...] = np.arange(216).reshape(2, 3, 6, 6) / 100
    want = {name: blob.data.copy() for name, blob in net.blobs.items() if net.forward()}
    caffe.set_mode_gpu()
    net.forward()
    assert net.executor.place is device
    for name, values in want.items():
        assert np.array_equal(net.blobs[name].data, values)
    caffe.set_mode_cpu()
    net.blobs["data"].data[...] += 1
    net.forward()
    assert net.executor.place is HOST
    assert not np.array_equal(net.blobs["prob"].data, want["prob"])


def test_copies_are_made_only_where_needed(device: Place) -> None:
    net = deploy()
    caffe.set_mode_gpu()
    net.executor.forward(0, 4)
    counts(device)
    net.executor.forward(0, 4)
    assert counts(device) == (0, 0)
    net.blobs["data"].data[...] = 1
    assert counts(device) == (0, 0)
    net.executor.forward(0, 4)
    assert counts(device) == (1, 0)
    assert net.blobs["prob"].data.sum() == pytest.approx(2)
    assert net.blobs["prob"].data.sum() == pytest.approx(2)
    assert counts(device) == (0, 1)
    held = net.blobs["prob"].data
    net.executor.forward(0, 4)
    assert counts(device) == (1, 1)
    assert held.sum() == pytest.approx(2)


def test_arrays_survive_a_change_of_place(other: Place) -> None:
    net = deploy()
    shown, weight = net.blobs["prob"].data, net.params["ip"][0].data
    for mode, device in (("gpu", 0), ("gpu", 1), ("cpu", 1), ("gpu", 0), ("cpu", 0)):
        caffe.set_device(device)
        getattr(caffe, f"set_mode_{mode}")()
        weight[...] = device + 1
        net.blobs["data"].data[...] = 1
        net.forward()
        assert np.shares_memory(shown, net.blobs["prob"].data)
        assert np.shares_memory(weight, net.params["ip"][0].data)
        np.testing.assert_allclose(shown, 0.2, rtol=1e-5)
    assert other.uploads > 0


def test_weights_written_by_the_host_are_saved(device: Place) -> None:
    caffe.set_mode_gpu()
    net = deploy()
    net.forward()
    for number, (path, write_file) in enumerate(
        [("w.caffemodel", net.save), ("w.h5", net.save_hdf5)], 1
    ):
        net.params["ip"][0].data[...] = number
        write_file(path)
        again = caffe.Net("deploy.prototxt", caffe.TEST, weights=path)
        assert (again.params["ip"][0].data == number).all()
    assert device.uploads > 0


def test_edits_in_hooks_reach_the_device(device: Place) -> None:
    caffe.set_mode_gpu()
    net = deploy()
    net.before_forward(lambda i: net.blobs["ip"].data.fill(0) if i == 4 else None)
    np.testing.assert_allclose(net.forward()["prob"], 0.2, rtol=1e-5)
    assert device.downloads > 0


@pytest.mark.parametrize("start", ["cpu", "gpu"])
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_solver_moves_and_trains_alike(device: Place, start: str, kind: str) -> None:
    write("train.prototxt", TRAIN)
    text = SOLVER + ("momentum2: 0.99\n" if kind == "Adam" else "")
    results = []
    for modes in (("cpu", "cpu"), (start, "gpu")):
        getattr(caffe, f"set_mode_{modes[0]}")()
        solver = getattr(caffe, f"{kind}Solver")(write("solver.prototxt", text))
        solver.step(3)
        getattr(caffe, f"set_mode_{modes[1]}")()
        solver.step(3)
        solver.snapshot()
        changed = solver.net.params["ip"][0].data.copy()
        solver.step(2)
        solver.restore("model_iter_6.solverstate")
        assert np.array_equal(solver.net.params["ip"][0].data, changed)
        solver.step(1)
        results.append(solver.net.params["conv"][0].data.copy())
        assert solver.net.executor.place is (device if modes[1] == "gpu" else HOST)
    assert np.array_equal(*results)


def test_applying_an_update_by_hand(device: Place) -> None:
    caffe.set_mode_gpu()
    write("train.prototxt", TRAIN)
    solver = caffe.SGDSolver(write("solver.prototxt", SOLVER))
    solver.net.forward()
    solver.net.clear_param_diffs()
    bias = solver.net.params["ip"][1]
    before = bias.data.copy()
    bias.diff[...] = 1
    solver.apply_update()
    np.testing.assert_allclose(before - bias.data, 0.01 * (1 + 0.0005 * before), rtol=1e-5)
    assert device.uploads > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    net = deploy()
    net.blobs["data"].data[...] = 1
    want = net.forward()["prob"].copy()
    caffe.set_mode_gpu()
    np.testing.assert_allclose(net.forward()["prob"], want, rtol=1e-4)
    assert net.blobs["prob"].values.value.is_cuda
    caffe.set_mode_cpu()
