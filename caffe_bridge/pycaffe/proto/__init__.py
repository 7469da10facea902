"""``caffe.proto``: the message classes."""
