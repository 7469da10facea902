"""Write docs/layers.md from the registry: what is checked, and what every layer's docstring says.

Usage: ``python tools/layer_table.py [--check | --table]``. Exit status: 0 done or up to date; 1
stale file or a docstring without a needed section; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from caffe_bridge.layers.base import Layer
from caffe_bridge.layers.registry import LAYERS
from caffe_bridge.schema import parse_text

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "layers.md"
ARCHIVE = ROOT / "tests" / "golden" / "golden.zip"
SECTIONS = (
    "Bottoms", "Tops", "Blobs", "Parameters", "Gradient", "ONNX", "Caffe source", "Differences",
)  # fmt: skip
_NEEDED = ("Bottoms", "Tops", "ONNX", "Caffe source", "Differences")
_LISTED = ("Bottoms", "Tops", "Blobs", "Parameters")
_ENTRY = re.compile(r"(?:[^:`(]|\([^)]*\)){1,70}: ")
#: Golden case (or how its name starts) -> the layer type whose gradient in Caffe is not the
#: derivative, and the words in its docstring's section Gradient that say so.
CAFFES_OWN: dict[str, tuple[str, str]] = {
    "ContrastiveLoss_03": ("ContrastiveLoss", "(d + 1e-4)"),
    "LSTMExposed": ("LSTM", "none through exposed states"),
    "NetAlexStyle_01": ("SoftmaxWithLoss", "FLT_MIN"),
    "Sparsify_00": ("Sparsify", "The pull is in no loss"),
    "Sparsify_01": ("Sparsify", "The pull is in no loss"),
    "Sparsify_02": ("Sparsify", "The pull is in no loss"),
    "SymmetricRectify_00": ("SymmetricRectify", "less ``thre_decay``"),
    "SymmetricRectify_02": ("SymmetricRectify", "less ``thre_decay``"),
    "SymmetricRectify_04": ("SymmetricRectify", "less ``thre_decay``"),
    "SymmetricRectify_05": ("SymmetricRectify", "less ``thre_decay``"),
}


def caffes_own(case: str) -> tuple[str, str] | None:
    """Why Caffe's gradient of a case is not the derivative, None when it is."""
    return next((why for start, why in CAFFES_OWN.items() if case.startswith(start)), None)


def layer_classes() -> dict[str, type[Layer]]:
    """The package's own layer classes by canonical type name."""
    classes = (LAYERS.get(name) for name in LAYERS.names())
    own = {c.type_name: c for c in classes if c.__module__.startswith("caffe_bridge.")}
    return dict(sorted(own.items(), key=lambda item: item[0].lower()))


def _other_names(name: str, cls: type[Layer]) -> list[str]:
    return [other for other in LAYERS.names() if LAYERS.get(other) is cls and other != name]


@functools.cache
def golden_types() -> dict[str, frozenset[str]]:
    """Layer types of every golden layer case."""
    found = {}
    with zipfile.ZipFile(ARCHIVE) as archive:
        for entry in archive.namelist():
            folder, _, rest = entry.partition("/")
            case, _, name = rest.partition("/")
            if folder == "layers" and name == "net.prototxt":
                net = parse_text(archive.read(entry).decode(), "NetParameter", entry)
                found[case] = frozenset(layer.type for layer in net.layer)
    return found


def sections(cls: type[Layer]) -> dict[str, list[str]]:
    """Lines of each section of a layer's docstring, and of its beginning as ''."""
    found: dict[str, list[str]] = {"": []}
    current = ""
    for line in (inspect.getdoc(cls) or "").splitlines():
        heading = line.removesuffix(":")
        if line.endswith(":") and heading in SECTIONS:
            current = heading
            found[current] = []
        else:
            found[current].append(line)
    return {name: inspect.cleandoc("\n".join(["", *lines])).splitlines()
            for name, lines in found.items()}  # fmt: skip


def _markdown(text: str) -> str:
    text = re.sub(r":\w+:`~?([^`]*)`", lambda m: f"`{m.group(1).rsplit('.', 1)[-1]}`", text)
    return text.replace("``", "`").strip()


def _paragraphs(lines: Iterable[str]) -> list[str]:
    text = "\n".join(lines)
    return [_markdown(" ".join(part.split())) for part in text.split("\n\n") if part.strip()]


def _items(lines: list[str]) -> list[str]:
    """Entries of a section; a line that is not indented and has a colon begins one."""
    entries: list[str] = []
    for line in lines:
        begins = not line.startswith(" ") and _ENTRY.match(line)
        if entries and not begins:
            entries[-1] += " " + line.strip()
        elif line.strip():
            entries.append(line.strip())
    return [_markdown(entry) for entry in entries]


def _gradient_cell(name: str, cls: type[Layer], cases: list[str]) -> str:
    if cls.is_input or not cls.differentiable:
        return "none"
    if any((caffes_own(case) or ("",))[0] == name for case in cases):
        return "Caffe's own, not everywhere the derivative"
    return "finite differences" if cases else "own tests"


def _onnx_cell(cls: type[Layer], cases: list[str]) -> str:
    if cls.is_input:
        return "graph input"
    if cls.emit is Layer.emit or sections(cls)["ONNX"][0].startswith(("none", "refused")):
        return "cannot exist, see below"
    how = "opset 13, 17, newest" if cases else "own tests"
    return f"{how}; the value only, ONNX has no gradient" if cls.is_loss else how


def table() -> list[str]:
    """The table type x {torch, gradient, ONNX} as Markdown lines."""
    counts = Counter(name for types in golden_types().values() for name in types)
    lines = ["| type | torch | gradient | ONNX |", "| --- | --- | --- | --- |"]
    for name, cls in layer_classes().items():
        cases = [case for case, types in golden_types().items() if name in types]
        torch = f"Caffe's numbers, {counts[name]} cases" if cases else "own tests"
        link = f"[{name}](#{name.lower().replace('.', '')})"
        cells = link, torch, _gradient_cell(name, cls, cases), _onnx_cell(cls, cases)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _layer(name: str, cls: type[Layer]) -> list[str]:
    parts = sections(cls)
    missing = [section for section in _NEEDED if section not in parts]
    if missing:
        raise RuntimeError(f"the docstring of {name} has no section {', '.join(missing)}.")
    lines = [f"## {name}", "", *("\n\n".join(_paragraphs(parts[""])).splitlines()), ""]
    others = _other_names(name, cls)
    if others:
        lines += [f"Also: {', '.join(f'`{other}`' for other in others)}.", ""]
    for section in SECTIONS:
        if section not in parts:
            continue
        if section in _LISTED:
            entries = _items(parts[section])
            lines += [f"* {section}: {entries[0]}"] if len(entries) == 1 else [
                f"* {section}:", *(f"    * {entry}" for entry in entries),
            ]  # fmt: skip
        else:
            lines.append(f"* {section}: {' '.join(_paragraphs(parts[section]))}")
    return [*lines, ""]


def document() -> str:
    """The whole of docs/layers.md."""
    classes = layer_classes()
    lines = [
        "# Layers", "",
        "Written by `python tools/layer_table.py` from the layers' docstrings; do not edit.", "",
        f"{len(classes)} types. torch: outputs, gradients and state equal those that a real Caffe "
        "computed (`tests/golden`), or the layer's own tests hold it against a numpy reference. "
        "gradient: autograd equals finite differences in float64, save where Caffe's own gradient "
        "is not the derivative. ONNX: onnxruntime gives Caffe's outputs for the cases of the TEST "
        "phase, none of which is refused.", "",
        *table(), "",
    ]  # fmt: skip
    for name, cls in classes.items():
        lines += _layer(name, cls)
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Write, check or print and return the exit status."""
    parser = argparse.ArgumentParser(description="Write docs/layers.md from the registry.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="only compare, exit 1 when stale")
    mode.add_argument("--table", action="store_true", help="print the table only")
    given = parser.parse_args(argv)
    if given.table:
        sys.stdout.write("\n".join(table()) + "\n")
        return 0
    try:
        text = document()
    except RuntimeError as error:
        sys.stderr.write(f"layer_table: {error}\n")
        return 1
    if given.check:
        if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write("docs/layers.md is stale. Run: python tools/layer_table.py\n")
        return 1
    TARGET.write_text(text, encoding="utf-8")
    sys.stdout.write(f"wrote docs/layers.md ({len(layer_classes())} types)\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
