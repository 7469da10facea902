"""Net surgery: equal nets of another form, with their weights."""

from caffe_bridge.compress.surgery.fc_to_conv import fc_to_conv
from caffe_bridge.compress.surgery.merge_groups import merge_groups
from caffe_bridge.compress.surgery.result import Surgery, largest_difference, write_surgery
from caffe_bridge.compress.surgery.split_groups import split_groups

__all__ = [
    "Surgery", "fc_to_conv", "largest_difference", "merge_groups", "split_groups", "write_surgery",
]  # fmt: skip
