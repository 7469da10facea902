"""Data bases of pictures with boxes (SSD's AnnotatedDatum): the source behind AnnotatedData."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from caffe_bridge.data import augment
from caffe_bridge.data.boxes import crop_boxes, extrapolated, mirrored, resized
from caffe_bridge.data.datum import datum_image
from caffe_bridge.data.record_source import Located, RecordSource
from caffe_bridge.data.resize import check_resize, new_size, resize_image
from caffe_bridge.data.transformer import DataTransformer
from caffe_bridge.errors import DataError, SchemaError
from caffe_bridge.graph import LayerSpec, Shape
from caffe_bridge.schema import Record, decode

#: A label row: item, class, instance, x1, y1, x2, y2, difficult.
ROW = 8
_OWN_TRANSFORMS = (
    "resize_param", "emit_constraint", "mirror", "distort_param", "expand_param", "crop_size",
    "crop_h", "crop_w",
)  # fmt: skip


@dataclass
class Annotated:
    """One picture (C, H, W) with its boxes.

    ``boxes`` has rows of class, instance, x1, y1, x2, y2 (as shares of the picture), difficult;
    it is None when the record has no annotations and ``label`` counts.
    """

    image: np.ndarray
    boxes: np.ndarray | None
    label: int
    encoded: bool


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
        return Annotated(image, None, int(record.datum.label), bool(record.datum.encoded))
    if kind != "BBOX":
        raise DataError(f"{where}: annotations of type {kind} are not supported, only BBOX.")
    rows = [
        (group.group_label, a.instance_id, a.bbox.xmin, a.bbox.ymin, a.bbox.xmax, a.bbox.ymax,
         float(a.bbox.difficult))
        for group in record.annotation_group
        for a in group.annotation
    ]  # fmt: skip
    boxes = np.array(rows, np.float32).reshape(-1, ROW - 1)
    return Annotated(image, boxes, int(record.datum.label), bool(record.datum.encoded))


@dataclass(frozen=True)
class AnnotatedPlan:
    """Records of a batch, a seed for the draws of each, and which resize_param counts."""

    records: list[Located]
    seeds: list[int]
    policy: int


class AnnotatedSource(RecordSource):
    """Pictures and boxes of a data base of AnnotatedDatum records, in the order of the keys.

    A picture is distorted, expanded, cropped to a drawn sample, perhaps flipped, resized, cropped
    to crop_size and transformed; its boxes go with it. See :mod:`caffe_bridge.data.augment`.

    Args:
        spec: an AnnotatedData layer.
        phase: "TRAIN" or "TEST".

    Raises:
        DataError: no such data base, its first record cannot be used, or parameters that
            contradict each other.
    """

    slow = True
    decodes = True

    def __init__(self, spec: LayerSpec, phase: str) -> None:
        super().__init__(spec)
        extra, transform = spec.record.annotated_data_param, spec.record.transform_param
        self.kind = str(extra.anno_type) if extra.has("anno_type") else ""
        self.labelled = len(spec.tops) > 1
        self.samplers = list(extra.batch_sampler)
        augment.check_samplers(self.samplers, spec.label())
        self.mirror, self.train = bool(transform.mirror), phase == "TRAIN"
        self.emit = transform.emit_constraint if transform.has("emit_constraint") else None
        self.expansion = transform.expand_param if transform.has("expand_param") else None
        self.distortion = None
        if transform.has("distort_param"):
            self.distortion = augment.Distortion(transform.distort_param, spec.label())
        self.resizes = list(transform.resize_param)
        self._check_resizes(int(spec.record.data_param.batch_size))
        self.crop = self._crop_size(transform)
        plain = spec.record.copy()
        for name in _OWN_TRANSFORMS:
            plain.mutable("transform_param").clear(name)
        self.transformer = DataTransformer(replace(spec, record=plain), phase)
        self._check_mean()
        key, value, _last = self.reader.take()
        first = self._read(key, value)
        size = (int(first.image.shape[1]), int(first.image.shape[2]))
        if self.resizes:
            size = new_size(size, self.resizes[0])
        self._first = (int(first.image.shape[0]), *(self.crop or size))
        self._label_shape = None if first.boxes is None else (1, 1, max(1, len(first.boxes)), ROW)
        self.boxed = first.boxes is not None
        self.rewind()

    def _check_resizes(self, batch: int) -> None:
        for resize in self.resizes:
            check_resize(resize, self.spec.label())
            if resize.resize_mode == "FIT_SMALL_SIZE" and batch != 1:
                self.fail(
                    f"resize_mode FIT_SMALL_SIZE gives every picture another size; batch_size is "
                    f"{batch}, make it 1."
                )
        if len({resize.prob for resize in self.resizes}) > 1:
            self.fail(
                "the resize_param have unequal prob, which is not supported; give all the same."
            )

    def _crop_size(self, transform: Record) -> tuple[int, int] | None:
        """Height and width to cut out, None for everything."""
        size = (int(transform.crop_h), int(transform.crop_w))
        if transform.crop_size:
            size = (int(transform.crop_size),) * 2
        if (size[0] > 0) != (size[1] > 0):
            self.fail("gives only one of crop_h and crop_w; give both or none.")
        return size if size[0] else None

    def _check_mean(self) -> None:
        mean = self.transformer.mean
        if mean is None or self.expansion is None:
            return
        if self.transformer.has_mean_image:
            self.fail("expand_param has no colour for its canvas with mean_file; give mean_value.")

    def _read(self, key: bytes, value: bytes) -> Annotated:
        color, gray = self.transformer.force_color, self.transformer.force_gray
        return read_annotated(value, self.where(key), self.kind, color, gray)

    def shapes(self, batch: int) -> list[Shape]:
        """(batch, C, h, w) by the first picture; (1, 1, its boxes, 8), or (batch,) without."""
        return [(batch, *self._first), (batch,) if self._label_shape is None else self._label_shape]

    def plan(self, batch: int) -> AnnotatedPlan:
        """The next records. Each has a generator of its own: what it draws depends on its boxes."""
        seeds = self.rng.integers(0, 2**63, batch * self.ranks)[self.rank :: self.ranks]
        several = len(self.resizes) > 1
        policy = int(self.rng.integers(len(self.resizes))) if several else 0
        return AnnotatedPlan(self.locate(batch), seeds.tolist(), policy)

    def make(self, plan: AnnotatedPlan) -> list[np.ndarray]:
        """Pictures, and the boxes of all of them: (1, 1, number, 8).

        A batch without boxes has one row of -1.
        """
        images, rows, labels = [], [], np.empty(len(plan.records), np.float32)
        resize = self.resizes[plan.policy] if self.resizes else None
        for item, (record, seed) in enumerate(zip(plan.records, plan.seeds, strict=True)):
            found = self._read(record[0], self.value(record))
            labels[item] = found.label
            if self.labelled and (found.boxes is not None) != self.boxed:
                self.fail(
                    f"{self.path}: some records have annotations and some have none; write the "
                    "data base again, or give annotated_data_param.anno_type."
                )
            rng = np.random.default_rng(seed)
            image, table = self._transform(self._augment(found, record[0], rng), resize, rng)
            images.append(image)
            rows.append(np.insert(table, 0, item, axis=1))
        data = self.transformer.apply(images, None)
        if not self.boxed:
            return [data, labels]
        table = np.concatenate(rows)
        if not len(table):
            table = np.full((1, ROW), -1.0)
        return [data, np.ascontiguousarray(table[None, None], np.float32)]

    def _augment(self, found: Annotated, key: bytes, rng: np.random.Generator) -> augment.Sample:
        """The picture as OpenCV has it, after the random augmentations."""
        image = found.image[0] if len(found.image) == 1 else found.image.transpose(1, 2, 0)
        table = np.zeros((0, ROW - 1), np.float32) if found.boxes is None else found.boxes
        sample = augment.Sample(image, table, found.encoded, self.where(key))
        drawn = self.distortion or self.expansion or self.samplers
        if drawn and image.dtype != np.uint8:
            self.fail(
                f"{self.path}: pictures of {image.dtype} values cannot be augmented; use 8 bits."
            )
        if self.distortion and found.encoded:
            if self.distortion.needs_color and (image.ndim != 3 or image.shape[2] != 3):
                self.fail(
                    "distort_param changes colours of pictures that do not have three channels; "
                    "use force_color: true."
                )
            image = self.distortion(np.ascontiguousarray(image), rng)
            sample = augment.through_jpeg(replace(sample, image=image))
        if self.expansion is not None:
            mean = self.transformer.mean
            sample = augment.expand(sample, self.expansion, mean, self.emit, rng)
        if self.samplers:
            sample = augment.sample_crop(sample, self.samplers, self.emit, rng)
        return sample

    def _transform(
        self, sample: augment.Sample, resize: Record | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The picture (C, h, w) and its boxes, flipped, resized and cut."""
        flip = self.mirror and bool(rng.integers(2))
        image, table = sample.image, sample.table
        before = (int(image.shape[0]), int(image.shape[1]))
        if resize is not None:
            image = resize_image(image, resize, rng, self.spec.label())
            table = resized(table, before, resize)
        height, width = image.shape[:2]
        rows, columns = self.crop or (height, width)
        if rows > height or columns > width:
            self.fail(
                f"{sample.where}: a crop of {rows} x {columns} is larger than the picture of "
                f"{height} x {width}; resize it, or reduce the crop."
            )
        top, left = (height - rows) // 2, (width - columns) // 2
        if self.crop and self.train:
            top, left = (int(v) for v in rng.integers((height - rows + 1, width - columns + 1)))
        image = image[top : top + rows, left : left + columns]
        corners = np.array([left, top, left + columns, top + rows], np.float32)
        crop = corners / np.array([width, height, width, height], np.float32)
        table = crop_boxes(table, crop, self.emit)
        if flip:
            image, table = image[:, ::-1], mirrored(table)
        if resize is not None:
            table = extrapolated(table, before, resize, crop)
        return image[None] if image.ndim == 2 else image.transpose(2, 0, 1), table
