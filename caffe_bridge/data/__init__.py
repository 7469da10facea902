"""Data sources: what the data layers read, and writing data bases. No torch."""

from caffe_bridge.data.annotated import AnnotatedSource
from caffe_bridge.data.database import DatabaseSource, iterate
from caffe_bridge.data.datum import decode_datum, encode_datum
from caffe_bridge.data.dummy import DummySource
from caffe_bridge.data.hdf5 import Hdf5Source, Hdf5Writer
from caffe_bridge.data.image_list import ImageListSource
from caffe_bridge.data.leveldb import write_leveldb
from caffe_bridge.data.lmdb import write_lmdb
from caffe_bridge.data.memory import MemorySource
from caffe_bridge.data.prefetch import Prefetched
from caffe_bridge.data.record_source import open_records
from caffe_bridge.data.source import Source
from caffe_bridge.data.transformer import DataTransformer
from caffe_bridge.data.window import WindowSource
from caffe_bridge.data.write import compute_mean, record_writer, write_datums, write_records

__all__ = [
    "AnnotatedSource", "DataTransformer", "DatabaseSource", "DummySource", "Hdf5Source",
    "Hdf5Writer", "ImageListSource", "MemorySource", "Prefetched", "Source", "WindowSource",
    "compute_mean", "decode_datum", "encode_datum", "iterate", "open_records", "record_writer",
    "write_datums", "write_leveldb", "write_lmdb", "write_records",
]  # fmt: skip
