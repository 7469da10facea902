"""Data bases of pictures with boxes (SSD's AnnotatedDatum): the source behind AnnotatedData."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from caffe_bridge.data.database import open_records
from caffe_bridge.data.datum import datum_image
from caffe_bridge.data.source import Source
from caffe_bridge.data.transformer import DataTransformer
from caffe_bridge.errors import DataError, SchemaError
from caffe_bridge.graph import LayerSpec, Shape
from caffe_bridge.schema import Record, decode

#: A label row: item, class, instance, x1, y1, x2, y2, difficult.
ROW = 8
_INTERPOLATIONS = {"LINEAR": 1, "AREA": 3, "NEAREST": 0, "CUBIC": 2, "LANCZOS4": 4}  # cv2's numbers
_OWN_TRANSFORMS = ("resize_param", "emit_constraint", "mirror")


@dataclass
class Annotated:
    """One picture (C, H, W) with its boxes.

    ``boxes`` has rows of class, instance, x1, y1, x2, y2 (as shares of the picture), difficult;
    it is None when the record has no annotations and ``label`` counts.
    """

    image: np.ndarray
    boxes: np.ndarray | None
    label: int


def read_annotated(
    data: bytes, where: str, kind: str = "", color: bool = False, gray: bool = False
) -> Annotated:
    """Picture and boxes of an encoded AnnotatedDatum message.

    Args:
        data: the message's bytes.
        where: what to name in messages.
        kind: annotation type that replaces the record's own, if not empty.
        color: decode pictures to three channels.
        gray: decode pictures to one channel.

    Raises:
        DataError: another kind of record, or annotations other than boxes.
    """
    try:
        record = decode(data, "AnnotatedDatum", where)
    except SchemaError as error:
        raise DataError(str(error)) from error
    if not record.has("datum"):
        raise DataError(f"{where}: no AnnotatedDatum; read this data base by a Data layer.")
    image = datum_image(record.datum, where, color, gray)
    kind = kind or (str(record.type) if record.has("type") else "")
    if not kind:
        return Annotated(image, None, int(record.datum.label))
    if kind != "BBOX":
        raise DataError(f"{where}: annotations of type {kind} are not supported, only BBOX.")
    rows = [
        (group.group_label, a.instance_id, a.bbox.xmin, a.bbox.ymin, a.bbox.xmax, a.bbox.ymax,
         float(a.bbox.difficult))
        for group in record.annotation_group
        for a in group.annotation
    ]  # fmt: skip
    boxes = np.array(rows, np.float32).reshape(-1, ROW - 1)
    return Annotated(image, boxes, int(record.datum.label))


def mirrored(boxes: np.ndarray) -> np.ndarray:
    """Boxes of the picture flipped left-right."""
    flipped = boxes.copy()
    flipped[:, 2], flipped[:, 4] = 1 - boxes[:, 4], 1 - boxes[:, 2]
    return flipped


class AnnotatedSource(Source):
    """Pictures and boxes of a data base of AnnotatedDatum records, in the order of the keys.

    A picture is resized, then transformed; boxes are flipped with it.

    Args:
        spec: an AnnotatedData layer.
        phase: "TRAIN" or "TEST".

    Raises:
        DataError: no such data base, its first record cannot be used, or a random augmentation of
            SSD is asked for.
    """

    slow = True

    def __init__(self, spec: LayerSpec, phase: str) -> None:
        super().__init__(spec)
        p, extra = spec.record.data_param, spec.record.annotated_data_param
        if not p.source:
            self.fail("gives no data_param.source; name the folder of the data base there.")
        self.path = str(p.source)
        self.kind = str(extra.anno_type) if extra.has("anno_type") else ""
        self.labelled = len(spec.tops) > 1
        self._check_samplers(extra)
        transform = spec.record.transform_param
        self.mirror = bool(transform.mirror)
        self.resizes = list(transform.resize_param)
        for resize in self.resizes:
            self._check_resize(resize)
        plain = spec.record.copy()
        for name in _OWN_TRANSFORMS:
            plain.mutable("transform_param").clear(name)
        self.transformer = DataTransformer(replace(spec, record=plain), phase)
        if self.transformer.crop:
            self.fail("crop_size is not supported with boxes; resize with resize_param instead.")
        self._reader = open_records(self.path, p.backend, spec.label())
        first = self._read()
        self._first = tuple(int(d) for d in self._resize(first.image).shape)
        self._label_shape = None if first.boxes is None else (1, 1, max(1, len(first.boxes)), ROW)
        self.boxed = first.boxes is not None
        self.rewind()

    def _check_samplers(self, extra: Record) -> None:
        for sampler in extra.batch_sampler:
            if sampler.has("sampler") or sampler.has("sample_constraint"):
                self.fail(
                    "annotated_data_param.batch_sampler draws random crops, which is not "
                    "supported; remove the samplers to train on whole pictures."
                )

    def _check_resize(self, resize: Record) -> None:
        if resize.prob < 1 or resize.resize_mode != "WARP":
            self.fail(
                f"resize_param with prob {resize.prob:g} and mode {resize.resize_mode} is not "
                "supported; use WARP with prob 1."
            )
        if min(resize.height, resize.width) < 1:
            self.fail("resize_param gives no height or width; give both.")

    def _read(self) -> Annotated:
        key, value, _last = self._reader.take()
        where = f"{self.spec.label()}: {self.path}, key {key.decode('utf-8', 'replace')}"
        color, gray = self.transformer.force_color, self.transformer.force_gray
        return read_annotated(value, where, self.kind, color, gray)

    def _resize(self, image: np.ndarray) -> np.ndarray:
        if not self.resizes:
            return image
        import cv2  # here: loading it takes longer than everything else in the package

        resize = self.resizes[0]
        if len(self.resizes) > 1:
            resize = self.resizes[int(self.rng.integers(len(self.resizes)))]
        modes = list(resize.interp_mode) or ["LINEAR"]
        mode = modes[0] if len(modes) == 1 else modes[int(self.rng.integers(len(modes)))]
        made = cv2.resize(
            np.ascontiguousarray(image.transpose(1, 2, 0)),
            (int(resize.width), int(resize.height)),
            interpolation=_INTERPOLATIONS[mode],
        )
        return made[None] if made.ndim == 2 else made.transpose(2, 0, 1)

    def shapes(self, batch: int) -> list[Shape]:
        """(batch, C, h, w) by the first picture; (1, 1, its boxes, 8), or (batch,) without."""
        image = (batch, *self.transformer.shape(self._first))
        return [image, (batch,) if self._label_shape is None else self._label_shape]

    def next(self, batch: int) -> list[np.ndarray]:
        """The next pictures, and the boxes of all of them: (1, 1, number, 8).

        A batch without boxes has one row of -1.
        """
        images, rows, labels = [], [], np.empty(batch, np.float32)
        flips = (
            self.rng.integers(0, 2, batch).astype(bool) if self.mirror else np.zeros(batch, bool)
        )
        for item in range(batch):
            found = self._read()
            images.append(self._resize(found.image))
            labels[item] = found.label
            if self.labelled and (found.boxes is not None) != self.boxed:
                self.fail(
                    f"{self.path}: some records have annotations and some have none; write the "
                    "data base again, or give annotated_data_param.anno_type."
                )
            if found.boxes is not None:
                boxes = mirrored(found.boxes) if flips[item] else found.boxes
                rows.append(np.insert(boxes, 0, item, axis=1))
        data = self.transformer.transform(images, self.rng)
        data[flips] = data[flips][..., ::-1]
        if not self.boxed:
            return [data, labels]
        table = np.concatenate(rows) if rows else np.zeros((0, ROW))
        if not len(table):
            table = np.full((1, ROW), -1.0)
        return [data, np.ascontiguousarray(table[None, None], np.float32)]

    def rewind(self) -> None:
        """Go to the first record."""
        self._reader.rewind()

    def close(self) -> None:
        """Close the data base."""
        self._reader.close()
