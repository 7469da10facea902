"""A script that says ``import caffe`` and nothing of us gives a real Caffe's numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.golden.archive import error

REPO = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
import numpy as np
import caffe
from caffe.proto import caffe_pb2

caffe.set_mode_cpu()
assert caffe_pb2.NetParameter().DESCRIPTOR.name == 'NetParameter'
found = {}

# Stepping a solver, blob by blob what Caffe got.
solver = caffe.get_solver('sgd_fixed/solver.prototxt')
solver.net.copy_from('init.caffemodel')
loss = []
for _ in range(16):
    solver.step(1)
    loss.append(float(solver.net.blobs['loss'].data))
found['loss'] = np.array(loss)
for layer, blobs in solver.net.params.items():
    for index, blob in enumerate(blobs):
        found['param/%s/%d' % (layer, index)] = np.array(blob.data)

# Editing blobs and params in place, and running a part of the net.
net = solver.net
net.forward(end='conv1')
net.blobs['conv1'].data[...] = -1.0
net.forward(start='relu1', end='pool1')
found['pooled'] = np.array(net.blobs['pool1'].data)
net.params['ip2'][0].data[...] = 0.0
net.params['ip2'][1].data[...] = np.arange(10)
net.forward(start='ip2', end='ip2')
found['scores'] = np.array(net.blobs['ip2'].data)
np.savez(sys.argv[1], **found)
"""


@pytest.mark.golden
def test_an_unedited_script(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, "-m", "caffe_bridge", "py", str(tmp_path / "script.py"),
         str(tmp_path / "found.npz")],
        cwd=golden / "solvers", capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with (
        np.load(tmp_path / "found.npz") as found,
        np.load(golden / "solvers" / "sgd_fixed" / "trace.npz") as trace,
    ):
        wanted = [key for key in trace.files if key == "loss" or key.startswith("param/")]
        assert len(wanted) > 10
        assert max(error(found[key], trace[key]) for key in wanted) <= 2e-3
        assert np.all(found["pooled"] == 0)
        np.testing.assert_array_equal(found["scores"], np.tile(np.arange(10.0), (24, 1)))
