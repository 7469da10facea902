"""Tests of caffe_bridge.solver."""
