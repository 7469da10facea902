from __future__ import annotations

import cv2
import numpy as np
import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import BackendError, DataError, ShapeError
from tests.pycaffe.nets import DEPLOY, write

RNG = np.random.default_rng(0)


def files() -> tuple[str, str]:
    path = write("deploy.prototxt", DEPLOY)
    caffe.Net(path, caffe.TEST, seed=0).save("w.caffemodel")
    return path, "w.caffemodel"


def test_oversampling_averages_ten_crops() -> None:
    made = caffe.Classifier(*files(), image_dims=(8, 9), raw_scale=255, channel_swap=(2, 1, 0))
    images = [RNG.random((8, 9, 3)).astype(np.float32) for _ in range(3)]
    got = made.predict(images)
    assert got.shape == (3, 5)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)
    crops = caffe.io.oversample([images[1]], (6, 6))
    batch = np.stack([crop.transpose(2, 0, 1)[::-1] * 255 for crop in crops])
    alone = caffe.Net(*files(), caffe.TEST).forward_all(data=batch)["prob"]
    np.testing.assert_allclose(got[1], alone.mean(0), rtol=1e-4)


def test_centre_crop_and_mean() -> None:
    mean = np.array([0.1, 0.2, 0.3])
    made = caffe.Classifier(*files(), image_dims=(8, 8), mean=mean)
    image = RNG.random((8, 8, 3)).astype(np.float32)
    centre = image[1:7, 1:7].transpose(2, 0, 1) - mean[:, None, None]
    want = caffe.Net(*files(), caffe.TEST).forward_all(data=centre[None])["prob"]
    np.testing.assert_allclose(made.predict([image], oversample=False), want, rtol=1e-4)
    with pytest.raises(DataError, match="needs pictures"):
        made.predict([])


def test_detector_warps_windows() -> None:
    picture = RNG.integers(0, 255, (20, 20, 3)).astype(np.uint8)
    cv2.imwrite("p.png", picture)
    made = caffe.Detector(*files(), raw_scale=255)
    found = made.detect_windows([("p.png", [(2, 3, 8, 9), (0, 0, 20, 20)])])
    assert [item["filename"] for item in found] == ["p.png", "p.png"]
    crop = picture[2:8, 3:9, ::-1].transpose(2, 0, 1).astype(np.float32)
    want = caffe.Net(*files(), caffe.TEST).forward_all(data=crop[None])["prob"][0]
    np.testing.assert_allclose(found[0]["prediction"], want, rtol=1e-4)
    assert made.detect_windows([]) == []
    with pytest.raises(DataError, match="no area"):
        made.detect_windows([("p.png", [(5, 5, 5, 9)])])
    with pytest.raises(BackendError, match="detect_windows"):
        made.detect_selective_search(["p.png"])


def test_context_outside_the_picture_is_the_mean() -> None:
    mean = np.array([10.0, 20.0, 30.0])
    made = caffe.Detector(*files(), mean=mean, context_pad=1)
    made.transformer.set_raw_scale("data", 1)
    made.configure_crop(1)
    image = np.full((10, 10, 3), 99, np.float32)
    inner = made.crop(image, (4, 4, 8, 8))
    np.testing.assert_allclose(inner, 99)
    corner = made.crop(image, (0, 0, 4, 4))
    np.testing.assert_allclose(corner[0, 0], mean)
    np.testing.assert_allclose(corner[-1, -1], 99)


def test_centre_crops_keep_the_shape_of_the_output() -> None:
    """A fully convolutional net answers with a map."""
    text = DEPLOY[: DEPLOY.index('layer { name: "ip"')]
    path = write("maps.prototxt", text)
    caffe.Net(path, caffe.TEST, seed=0).save("maps.caffemodel")
    made = caffe.Classifier(path, "maps.caffemodel")
    images = [RNG.random((6, 6, 3)).astype(np.float32) for _ in range(3)]
    assert made.predict(images, oversample=False).shape == (3, 4, 4, 4)
    assert made.predict(images).shape == (3, 64)


def test_a_detector_of_grey_pictures() -> None:
    path = write("grey.prototxt", DEPLOY.replace("dim: 3", "dim: 1"))
    caffe.Net(path, caffe.TEST, seed=0).save("grey.caffemodel")
    made = caffe.Detector(path, "grey.caffemodel", mean=np.array([7.0]), context_pad=1)
    assert made.crop_mean.shape == (6, 6, 1)
    np.testing.assert_allclose(made.crop_mean, 7)


@pytest.mark.parametrize("pad", [-1, 3, 4])
def test_a_context_that_leaves_no_picture_is_refused(pad: int) -> None:
    with pytest.raises(ShapeError, match="less than half of the input's 6"):
        caffe.Detector(*files(), context_pad=pad)
