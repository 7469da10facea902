"""Tests of caffe_bridge.pycaffe."""
