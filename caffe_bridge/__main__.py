"""``python -m caffe_bridge``."""

from caffe_bridge.cli.main import entry

entry()
