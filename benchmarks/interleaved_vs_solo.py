"""Medians of models measured in turn in one process, against each alone in its own process.

Speed-ups are read from interleaved runs, which is right only where a model is as fast there as
alone. Target: within 10 % for every model, spinning off. ``--rounds`` repeats solo and
interleaved in turn and takes the median of each, so that a drift of the machine meets both.

Example:
    python benchmarks/interleaved_vs_solo.py --threads 2 --batch 10 --json out.json
    python benchmarks/interleaved_vs_solo.py net.onnx lowrank/lowrank.onnx --batch 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from caffe_bridge.bench import Schedule, machine_info, make_session, measure
from caffe_bridge.compress.latency.paper import PaperBench

TARGET = 0.10
_SOLO = "--solo"


def medians(paths: list[Path], batch: int, threads: int, seconds: float) -> dict[str, float]:
    """Median milliseconds by path, measured in turn in this process."""
    plan = Schedule(min_runs=20, min_seconds=seconds, block=5, max_seconds=4 * seconds)
    sessions = {str(path): make_session(path, threads, batch=batch) for path in paths}
    found = measure(
        sessions, plan.min_runs, plan.min_seconds, plan.warmup_runs, plan.warmup_seconds,
        plan.block, plan.max_seconds,
    )  # fmt: skip
    return {name: timing.stats().median_ms for name, timing in found.items()}


def solo(path: Path, batch: int, threads: int, seconds: float) -> float:
    """Median milliseconds of one model in a process of its own."""
    command = [sys.executable, __file__, str(path), _SOLO, "--batch", str(batch), "--threads",
               str(threads), "--seconds", str(seconds)]  # fmt: skip
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(answer.stdout)[str(path)])


def compare(
    paths: list[Path], batch: int, threads: int, seconds: float, rounds: int
) -> list[dict[str, object]]:
    """One row a model: both medians and their relative difference."""
    alone: dict[str, list[float]] = {str(path): [] for path in paths}
    turn: dict[str, list[float]] = {str(path): [] for path in paths}
    for _ in range(rounds):
        for path in paths:
            alone[str(path)].append(solo(path, batch, threads, seconds))
        for name, value in medians(paths, batch, threads, seconds).items():
            turn[name].append(value)
    rows: list[dict[str, object]] = []
    for path in paths:
        first, second = statistics.median(alone[str(path)]), statistics.median(turn[str(path)])
        rows.append({
            "model": path.stem, "solo_ms": first, "interleaved_ms": second,
            "difference": second / first - 1.0,
        })  # fmt: skip
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns 1 when a model differs by more than the target."""
    parser = argparse.ArgumentParser(description="Interleaved medians against solo ones.")
    parser.add_argument("models", nargs="*", type=Path, help="ONNX files; AlexNet by default.")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="Write the result to this file.")
    parser.add_argument(_SOLO, action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.solo:
        print(json.dumps(medians(args.models, args.batch, args.threads, args.seconds)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        # Without models: AlexNet and its low-rank nets of the paper's Table 4, weights random.
        paths = args.models or list(PaperBench("table4", Path(folder), 16).paths.values())
        rows = compare(paths, args.batch, args.threads, args.seconds, args.rounds)
    worst = max(abs(float(str(row["difference"]))) for row in rows)
    for row in rows:
        print(
            f"{row['model']}: solo {row['solo_ms']:.3f} ms, interleaved "
            f"{row['interleaved_ms']:.3f} ms, {row['difference']:+.1%}"
        )
    print(f"worst {worst:.1%} (target {TARGET:.0%})")
    if args.json:
        result = {
            "batch": args.batch, "threads": args.threads, "seconds": args.seconds,
            "rounds": args.rounds, "machine": asdict(machine_info()), "rows": rows,
            "worst": worst, "target": TARGET,
        }  # fmt: skip
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(worst > TARGET)


if __name__ == "__main__":
    sys.exit(main())
