"""The rules that keep the package apart: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared import REPO

PACKAGE = REPO / "caffe_bridge"
#: Lowest first; a part may import itself and every part before it.
ORDER = [
    "errors", "log", "registry", "files", "strict_json", "schema", "graph", "data", "layers", "net",
    "solver", "onnx_export", "bench", "compress", "pycaffe", "experiment", "demo", "cli",
]  # fmt: skip
#: Parts of one height: neither may import the other.
APART = {("onnx_export", "solver"), ("pycaffe", "compress"), ("bench", "solver")}
#: Third-party module -> the files or folders that may import it.
BORDERS = {
    "google": ["schema"],
    "onnx": ["onnx_export"],
    "onnxruntime": ["onnx_export/verify.py", "onnx_export/quantize.py", "bench"],
    "h5py": ["schema/hdf5.py", "data/hdf5.py"],
    "lmdb": ["data/lmdb.py"],
    "plyvel": ["data/leveldb.py"],
}
NO_TORCH = ["errors.py", "log.py", "registry.py", "files.py", "schema", "graph", "data"]
MAX_LINES = 400

Imports = list[tuple[str, int]]


def python_files(*folders: str) -> list[Path]:
    found = [p for folder in folders for p in sorted((REPO / folder).rglob("*.py"))]
    return [p for p in found if not {"build", ".venv", "__pycache__"} & set(p.parts)]


def imports(tree: ast.AST, package: tuple[str, ...]) -> Imports:
    """Dotted names that a module imports anywhere, with their lines; relative ones resolved."""
    found: Imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            found += [(f"{name}.{alias.name}", node.lineno) for alias in node.names]
    return found


@functools.cache
def imports_of(path: Path) -> Imports:
    package = path.relative_to(REPO).parent.parts
    return imports(ast.parse(path.read_text(encoding="utf-8")), package)


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def upward(own: str, names: Imports) -> list[str]:
    """Imports of a part that lies above, beside, or nowhere."""
    wrong = []
    for name, line in names:
        pieces = name.split(".")
        if pieces[0] != "caffe_bridge" or len(pieces) < 2 or pieces[1] not in ORDER:
            continue
        other = pieces[1]
        if ORDER.index(other) > ORDER.index(own) or (own, other) in APART:
            wrong.append(f"line {line}: {own} imports {name}")
    return wrong


def foreign(inside: str, names: Imports) -> list[str]:
    """Third-party imports that this file (path inside the package) may not make."""
    wrong = []
    for name, line in names:
        top = name.split(".")[0]
        allowed = BORDERS.get(top, [inside])
        if top == "torch" and any(inside == p or inside.startswith(f"{p}/") for p in NO_TORCH):
            allowed = []
        if not any(inside == place or inside.startswith(f"{place}/") for place in allowed):
            wrong.append(f"{inside}, line {line}: imports {name}")
    return wrong


def test_every_part_has_its_place() -> None:
    entries = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix in ("", ".py")}
    assert entries - {"__init__", "__main__", "__pycache__"} <= set(ORDER)


def test_imports_go_down() -> None:
    wrong = []
    for path in python_files("caffe_bridge"):
        if part(path) in ORDER:
            wrong += [
                f"{path.relative_to(REPO)}, {w}" for w in upward(part(path), imports_of(path))
            ]
    assert not wrong


def test_third_party_borders() -> None:
    wrong = []
    for path in python_files("caffe_bridge"):
        wrong += foreign(path.relative_to(PACKAGE).as_posix(), imports_of(path))
    assert not wrong


@pytest.mark.parametrize(
    ("code", "package", "wrong"),
    [
        ("import caffe_bridge.net", "schema", True),
        ("from caffe_bridge.layers.base import Layer", "graph", True),
        ("def f():\n from caffe_bridge import cli", "compress", True),
        ("from ..net import Net", "schema", True),
        ("from . import wire", "schema", False),
        ("from caffe_bridge.compress import plan", "pycaffe", True),
        ("from caffe_bridge.solver import x", "onnx_export", True),
        ("from caffe_bridge.onnx_export import x", "bench", False),
        ("from caffe_bridge.errors import BridgeError", "schema", False),
    ],
)
def test_a_planted_import_is_found(code: str, package: str, wrong: bool) -> None:
    names = imports(ast.parse(code), ("caffe_bridge", package))
    assert bool(upward(package, names)) is wrong


@pytest.mark.parametrize(
    ("name", "inside", "wrong"),
    [
        ("onnx.helper", "layers/relu.py", True),
        ("onnx.helper", "onnx_export/model.py", False),
        ("onnxruntime", "onnx_export/model.py", True),
        ("onnxruntime", "onnx_export/verify.py", False),
        ("onnxruntime", "bench/run.py", False),
        ("google.protobuf", "graph/convert.py", True),
        ("h5py", "data/hdf5.py", False),
        ("h5py", "data/image_list.py", True),
        ("torch.nn", "data/transform.py", True),
        ("torch", "files.py", True),
        ("torch", "layers/relu.py", False),
        ("numpy", "data/transform.py", False),
    ],
)
def test_a_planted_third_party_import_is_found(name: str, inside: str, wrong: bool) -> None:
    assert bool(foreign(inside, [(name, 1)])) is wrong


def test_no_file_is_too_long() -> None:
    files = python_files("caffe_bridge", "tests", "tools", "benchmarks")
    lengths = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    long = {str(p.relative_to(REPO)): n for p, n in lengths.items() if n > MAX_LINES}
    assert not long


def _registers(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    decorators = (
        d for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for d in node.decorator_list
    )
    return any(
        isinstance(d, ast.Call) and getattr(d.func, "id", getattr(d.func, "attr", "")) == "register"
        for d in decorators
    )


def test_each_layer_has_a_test() -> None:
    layers = [p for p in sorted((PACKAGE / "layers").glob("*.py")) if _registers(p)]
    missing = [p.stem for p in layers if not (REPO / f"tests/layers/test_{p.name}").exists()]
    assert layers
    assert not missing


def _modules(path: Path) -> set[Path]:
    """Files of the package that importing this file imports (statements at module level)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    names = [name for name, _ in imports(top, path.relative_to(REPO).parent.parts)]
    return {found for name in names if (found := _file(name)) is not None}


def _file(name: str) -> Path | None:
    """The file of ``package.module`` or of ``package.module.something``."""
    stem = REPO.joinpath(*name.split("."))
    places = [p for s in (stem, stem.parent) for p in (s.with_suffix(".py"), s / "__init__.py")]
    return next((p for p in places if p.exists()), None)


def test_no_circular_imports() -> None:
    graph = {path: _modules(path) for path in python_files("caffe_bridge")}
    done: set[Path] = set()

    def visit(path: Path, above: tuple[Path, ...]) -> None:
        names = " -> ".join(str(p.relative_to(REPO)) for p in (*above, path))
        assert path not in above, f"circular import: {names}"
        if path not in done:
            for other in sorted(graph[path]):
                visit(other, (*above, path))
            done.add(path)

    for path in graph:
        visit(path, ())


@pytest.mark.parametrize(
    "module",
    [m for m in ("schema", "graph", "data", "cli.main")
     if (PACKAGE / f"{m.replace('.', '/')}.py").exists() or (PACKAGE / m).is_dir()],
)  # fmt: skip
def test_light_parts_do_not_load_torch(module: str) -> None:
    code = f"import sys, caffe_bridge.{module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or f"caffe_bridge.{module} imports torch"
