"""Letting ``import caffe`` mean this package, for scripts that nobody wants to edit."""

from __future__ import annotations

import importlib
import importlib.util
import sys

from caffe_bridge.errors import BridgeError
from caffe_bridge.layers.python import allow_python_layers

_HOME = "caffe_bridge.pycaffe"
#: Modules of pycaffe and what stands for them here.
MODULES = {
    "caffe": "",
    "caffe.classifier": ".classifier",
    "caffe.coord_map": ".coord_map",
    "caffe.detector": ".detector",
    "caffe.draw": ".draw",
    "caffe.io": ".io",
    "caffe.net_spec": ".net_spec",
    "caffe.proto": ".proto",
    "caffe.proto.caffe_pb2": ".proto.caffe_pb2",
    "caffe.pycaffe": "",
    "caffe._caffe": "",
}
#: Submodules whose names pycaffe's package has imported into itself.
_ITSELF = ("pycaffe", "_caffe")


def installed() -> bool:
    """Whether ``import caffe`` gives this package now."""
    found = sys.modules.get("caffe")
    return found is not None and found is sys.modules.get(_HOME)


def _real_caffe() -> str | None:
    """Where a real caffe would be imported from, if there is one."""
    if installed():
        return None
    if "caffe" in sys.modules:
        return str(getattr(sys.modules["caffe"], "__file__", None) or "this process")
    try:
        spec = importlib.util.find_spec("caffe")
    except (ImportError, ValueError):
        return None
    if spec is None or spec.loader is None:
        return None
    return spec.origin


def install(force: bool = False) -> None:
    """Let ``import caffe``, ``caffe.io``, ``from caffe.proto import caffe_pb2`` find this package.

    Also permits Python layers, since whoever runs such a script trusts it and its nets.

    Args:
        force: do so although a real caffe can be imported.

    Raises:
        BridgeError: a real caffe can be imported.
    """
    real = _real_caffe()
    if real and not force:
        raise BridgeError(
            f"a real caffe can be imported ({real}); 'import caffe' stays with it unless you force "
            "it: install(force=True), or --force on the command line."
        )
    if real:
        for name in [n for n in sys.modules if n == "caffe" or n.startswith("caffe.")]:
            del sys.modules[name]
    for name, ours in MODULES.items():
        sys.modules[name] = importlib.import_module(_HOME + ours)
    for name in _ITSELF:
        setattr(sys.modules["caffe"], name, sys.modules["caffe"])
    allow_python_layers()


def uninstall() -> None:
    """Undo :func:`install`, the permission of Python layers included."""
    if installed():
        for name in _ITSELF:
            delattr(sys.modules["caffe"], name)
        for name in MODULES:
            sys.modules.pop(name, None)
        allow_python_layers(False)
