"""Inspect every prototxt of a folder tree and count what can be run, and why the rest cannot.

Writes a Markdown report that names files by their path inside the folder only. A net counts as
built when, in the TEST or the TRAIN phase, every layer can be run and has shapes; data layers of
known types are stood in for where they cannot deliver (see ``caffe-bridge inspect``).

Usage: ``python tools/zoo.py FOLDER [--out docs/zoo.md] [--json FILE] [--least PERCENT]``. Exit
status: 0 done; 1 an inspection failed unexpectedly, or fewer nets than ``--least`` were built;
2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from caffe_bridge.errors import BridgeError, SchemaError
from caffe_bridge.graph import load_net
from caffe_bridge.layers.registry import LAYERS
from caffe_bridge.net.inspect import APPROXIMATED, NO_SHAPES, LayerReport, NetReport, inspect
from caffe_bridge.schema import prototxt_kind
from caffe_bridge.schema.kind import NET, SOLVER
from caffe_bridge.solver.inspect import inspect_solver

SUFFIXES = (".prototxt", ".prototxt~", ".pt", ".pbtxt")
SYNTAX, TYPE, CODE, DATA, OWN = (
    "syntax error", "unknown layer type", "Python code, which runs only when allowed",
    "data layer of a fork", "the net's own error",
)  # fmt: skip
CRASH = "unexpected failure of the inspection"
_FOREIGN = re.compile(r"(?<![\w.<])(?:[A-Za-z]:\\+|/)[^\s'\";,]+")


@dataclass
class Finding:
    """What became of one file. ``reasons`` are (category, detail); empty when all is well."""

    path: str
    kind: str
    parsed: bool = False
    built: bool = False
    phase: str = ""
    stood_in: bool = False
    reasons: list[tuple[str, str]] = field(default_factory=list)


def prototxts(folder: Path) -> list[Path]:
    """All prototxt files below a folder, sorted."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))


def _plain(text: str, folder: Path) -> str:
    """A message without the folder's own path, and without paths outside it."""
    return _FOREIGN.sub("...", text.replace(f"{folder}/", ""))


def _layer_reason(layer: LayerReport) -> tuple[str, str]:
    if layer.type not in LAYERS:
        return TYPE, layer.type
    if layer.type == "Python" and "user's code " in layer.reason:
        return CODE, layer.reason.partition("user's code ")[2].partition(",")[0] or layer.type
    return (OWN if layer.bottoms else DATA), layer.reason


def _net_reasons(report: NetReport) -> list[tuple[str, str]]:
    """Every unknown type and piece of code; other errors only when there are none of these."""
    found = [_layer_reason(layer) for layer in report.unsupported]
    first = [reason for reason in found if reason[0] not in (OWN,)]
    own = [(OWN, problem) for problem in report.problems]
    own += [reason for reason in found if reason[0] == OWN and reason[1] != NO_SHAPES]
    return list(dict.fromkeys(first)) or own[:1]


def examine(path: Path, folder: Path) -> Finding:
    """Inspect one file; never raises."""
    finding = Finding(path.relative_to(folder).as_posix(), "other")
    try:
        finding.kind = prototxt_kind(path)
        if finding.kind == SOLVER:
            _examine_solver(path, finding)
        elif finding.kind == NET:
            _examine_net(path, finding)
        else:
            finding.parsed = True
    except SchemaError as error:
        finding.reasons = [(SYNTAX, str(error))]
    except BridgeError as error:
        finding.parsed, finding.reasons = True, [(OWN, str(error))]
    except Exception:
        finding.reasons = [(CRASH, traceback.format_exc(limit=-2))]
    finding.reasons = [(kind, _plain(text, folder)) for kind, text in finding.reasons]
    return finding


def _examine_solver(path: Path, finding: Finding) -> None:
    report = inspect_solver(path)
    finding.parsed, finding.built = True, report.supported
    finding.reasons = [(OWN, problem) for problem in report.problems]


def _examine_net(path: Path, finding: Finding) -> None:
    best: NetReport | None = None
    for phase in ("TEST", "TRAIN"):
        report = inspect(load_net(path, phase))
        finding.parsed = True
        reasons = _net_reasons(report)
        if {category for category, _ in reasons} <= {DATA}:
            finding.built, finding.phase, finding.reasons = True, phase, reasons
            finding.stood_in = any(
                layer.status == APPROXIMATED and not layer.bottoms for layer in report.layers
            )
            return
        if best is None or _badness(report) < _badness(best):
            best = report
    if best is not None:
        finding.reasons = _net_reasons(best)


def _badness(report: NetReport) -> tuple[int, int]:
    return len(report.problems) * 1000 + len(set(_net_reasons(report))), len(report.unsupported)


def _rows(header: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    names = list(header)
    made = [names, ["---"] * len(names), *([str(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(row) + " |" for row in made] + [""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def report(findings: list[Finding]) -> str:
    """The Markdown text."""
    kinds = {kind: [f for f in findings if f.kind == kind] for kind in (NET, SOLVER, "other")}
    nets = kinds[NET]
    built = [f for f in nets if f.built]
    repositories = len({f.path.split("/")[0] for f in findings})
    lines = [
        "# Prototxt files from the wild", "",
        f"{len(findings)} files from {repositories} repositories, inspected by `tools/zoo.py`. A "
        "net is built when all its layers can be run and have shapes in the TEST or the TRAIN "
        "phase; data layers that cannot deliver, mostly because their source is not there, are "
        "stood in for by a usual shape.", "",
    ]  # fmt: skip
    lines += _rows(
        ("kind", "files", "read", "built or runnable"),
        ((kind, len(fs), sum(f.parsed for f in fs),
          f"{sum(f.built for f in fs)} ({_percent(fs)})" if kind != "other" else "")
         for kind, fs in kinds.items()),
    )  # fmt: skip
    stood_in, refused = sum(f.stood_in for f in built), sum(bool(f.reasons) for f in built)
    trained = sum(f.phase == "TRAIN" for f in built)
    lines += [
        f"Of the {len(built)} nets built, {stood_in} have a data layer whose source is missing, "
        f"{refused} one with settings of a fork that would be refused, and {trained} are built in "
        "the TRAIN phase only.",
        "",
    ]
    by_reason: Counter[str] = Counter()
    for finding in findings:
        by_reason.update({kind for kind, _ in finding.reasons})
    lines += ["## What is missing", "", "A file can have several reasons.", ""]
    lines += _rows(("reason", "files"), by_reason.most_common())
    for title, category in (("Unknown layer types", TYPE), ("Python layers", CODE)):
        lines += _details(title, category, findings)
    data = Counter(_setting(text) for f in findings for kind, text in f.reasons if kind == DATA)
    lines += ["## Data layers of forks", "", *_rows(("setting", "files"), data.most_common())]
    lines += ["## The files' own errors", ""]
    own = [(f"`{f.path}`", _cell(text)) for f in findings for kind, text in f.reasons
           if kind in (SYNTAX, OWN, CRASH)]  # fmt: skip
    lines += _rows(("file", "error"), own)
    return "\n".join(lines)


def _setting(text: str) -> str:
    """Which setting of a data layer is refused."""
    found = re.search(r"\w+_param\.\w+|backend '\w+'", text)
    return f"`{found.group()}`" if found else "other"


def _percent(findings: list[Finding]) -> str:
    return f"{100 * sum(f.built for f in findings) / max(1, len(findings)):.0f} %"


def _details(title: str, category: str, findings: list[Finding]) -> list[str]:
    named: dict[str, set[str]] = defaultdict(set)
    alone: Counter[str] = Counter()
    for finding in findings:
        mine = [text for kind, text in finding.reasons if kind == category]
        for text in mine:
            named[text].add(finding.path)
        if len(finding.reasons) == 1:
            alone.update(mine)
    order = sorted(named, key=lambda text: (-len(named[text]), text))
    rows = ((f"`{text}`", len(named[text]), alone[text]) for text in order)
    return [f"## {title}", "", *_rows(("name", "files", "as the only reason"), rows)]


def main(argv: list[str] | None = None) -> int:
    """Inspect, write the report and return the exit status."""
    parser = argparse.ArgumentParser(description="Inspect every prototxt of a folder tree.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="write the Markdown report here")
    parser.add_argument("--json", type=Path, help="write all findings here")
    parser.add_argument("--least", type=float, default=0.0, help="percent of nets to be built")
    given = parser.parse_args(argv)
    folder = given.folder.resolve()
    findings = [examine(path, folder) for path in prototxts(folder)]
    if not findings:
        parser.error(f"{given.folder} holds no prototxt files.")
    text = report(findings)
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    if given.json:
        given.json.write_text(json.dumps([asdict(f) for f in findings], indent=1))
    nets = [f for f in findings if f.kind == NET]
    share = 100 * sum(f.built for f in nets) / max(1, len(nets))
    crashes = [f.path for f in findings if any(kind == CRASH for kind, _ in f.reasons)]
    sys.stdout.write(f"{len(findings)} files, {len(nets)} nets, {share:.1f} % built\n")
    for path in crashes:
        sys.stderr.write(f"zoo: {path}: {CRASH}\n")
    return 1 if crashes or share < given.least else 0


if __name__ == "__main__":
    raise SystemExit(main())
