from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_bridge.errors import BridgeError
from caffe_bridge.pycaffe import install, stand_in, uninstall
from tests.pycaffe.nets import DEPLOY, write
from tests.shared import REPO

SCRIPT = """
import sys
import caffe, caffe.io
import google.protobuf.text_format as text_format
from caffe import layers as L, params as P
from caffe.coord_map import crop
from caffe.draw import draw_net_to_file
from caffe.proto import caffe_pb2
from caffe import pycaffe, _caffe
import caffe.pycaffe as whole
assert whole.Net is pycaffe.Net is _caffe.Net is caffe.pycaffe.Net is caffe.Net
n = caffe.NetSpec()
n.data = L.Input(shape=dict(dim=[1, 3]))
net = text_format.Merge(str(n.to_proto()), caffe_pb2.NetParameter())
print(caffe.__name__, net.layer[0].name, *sys.argv[1:])
if sys.argv[-1] == "exit":
    sys.exit(7)
if sys.argv[-1] == "fail":
    raise ValueError("as meant")
"""


def run(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), path]))}
    command = [sys.executable, "-m", "caffe_bridge", "py", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_scripts_run_unchanged() -> None:
    Path("script.py").write_text(SCRIPT)
    done = run("script.py", "--flag", "x", "--help")
    assert done.stdout == "caffe_bridge.pycaffe data --flag x --help\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_exit_status_and_traceback_are_the_scripts() -> None:
    Path("script.py").write_text(SCRIPT)
    assert run("script.py", "exit").returncode == 7
    failed = run("script.py", "fail")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == "ValueError: as meant"
    assert "runpy" not in failed.stderr


def test_set_mode_gpu_without_a_gpu_warns_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write("deploy.prototxt", DEPLOY)
    lines = ["import caffe", "caffe.set_mode_gpu()", "caffe.set_device(0)", "caffe.set_mode_gpu()",
             "net = caffe.Net('deploy.prototxt', caffe.TEST)",
             "print(net.forward()['prob'].shape)"]  # fmt: skip
    Path("script.py").write_text("\n".join(lines))
    done = run("script.py")
    assert (done.returncode, done.stdout) == (0, "(2, 5)\n")
    assert done.stderr.count("no CUDA device is available") == 1


def test_a_missing_script_is_one_sentence() -> None:
    done = run("none.py")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no such script" in done.stderr


def test_a_real_caffe_stays_unless_forced(tmp_path: Path) -> None:
    real = tmp_path / "lib" / "caffe"
    real.mkdir(parents=True)
    (real / "__init__.py").write_text("REAL = True\n")
    Path("script.py").write_text(SCRIPT)
    refused = run("script.py", path=str(real.parent))
    assert refused.returncode == 1
    assert "a real caffe can be imported" in refused.stderr
    forced = run("--force", "script.py", path=str(real.parent))
    assert forced.stdout == "caffe_bridge.pycaffe data\n"


def test_install_and_uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "caffe", raising=False)
    install()
    install()
    try:
        import caffe
        from caffe.proto import caffe_pb2

        assert caffe.Net.__module__.startswith("caffe_bridge")
        assert caffe_pb2.NetParameter
        assert stand_in.installed()
    finally:
        uninstall()
    assert "caffe" not in sys.modules
    sys.modules["caffe"] = sys
    try:
        with pytest.raises(BridgeError, match="a real caffe can be imported"):
            install()
    finally:
        del sys.modules["caffe"]
