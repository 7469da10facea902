"""AlexNet in four ONNX forms in one interleaved run: what the forms of its layers are worth.

(a) LRN as the operator, (b) portable, (c) ort-cpu, (d) ort-cpu at low rank. Weights are random, as
time does not depend on them. Targets: (c) takes at most 0.6 of the time of (a), and (d) is at least
2.0 times as fast as (c). The table by layer and the time of reorders come from profiled sessions.

Example:
    python benchmarks/alexnet_forms.py --json alexnet.json --markdown alexnet.md
    python benchmarks/alexnet_forms.py --quick --threads 1 --batch 2
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from caffe_bridge.bench import Schedule, compare, profile_models, to_json, to_markdown
from caffe_bridge.compress import decompose_net, make_plan
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export, forms_of, save
from caffe_bridge.onnx_export.verify import compare_models, verify

RECIPE = Path(__file__).resolve().parents[1] / "solvers" / "alexnet" / "deploy.prototxt"
RANKS = {"conv1": 16, "conv2": 64, "conv3": 128, "conv4": 128, "conv5": 128,
         "fc6": 512, "fc7": 512, "fc8": 512}  # fmt: skip
MOST_OF_OPERATORS = 0.6
LEAST_SPEED_UP = 2.0
SCHEDULE = Schedule(
    min_runs=60, min_seconds=3.0, warmup_runs=5, warmup_seconds=0.5, block=5, max_seconds=60.0
)
QUICK = Schedule(
    min_runs=4, min_seconds=0.0, warmup_runs=1, warmup_seconds=0.0, block=2, max_seconds=5.0
)


def build(folder: Path) -> tuple[dict[str, Path], dict[str, float]]:
    """The four files, and how far each is from its net, blob by blob, relative to the largest."""
    net = Net(RECIPE, seed=0).eval()
    weights = net.save(folder / "alexnet.caffemodel")
    written = decompose_net(RECIPE, weights, make_plan(RECIPE, weights, config=RANKS), folder)
    small = Net(written.net, weights=written.weights).eval()
    operators = {name: "operator" for name, forms in forms_of(net).items() if "operator" in forms
                 and net.layer(name).spec.type == "LRN"}  # fmt: skip
    models = {
        "operators": (net, export(net, forms=operators)),
        "portable": (net, export(net)),
        "ort-cpu": (net, export(net, target="ort-cpu")),
        "low rank": (small, export(small, target="ort-cpu")),
    }
    paths, worst = {}, {}
    for name, (source, model) in models.items():
        done = verify(source, model, (1,), every_blob=True).require(name)
        worst[name] = max(d.relative for d in done.differences)
        paths[name] = save(model, folder / f"{name.replace(' ', '_')}.onnx")
    fast = compare_models(net, models["portable"][1], models["ort-cpu"][1], (1, 3))
    worst["ort-cpu against portable"] = fast.require("ort-cpu").worst
    return paths, worst


def main(argv: list[str] | None = None) -> int:
    """Build, measure and print; returns 1 when a target is missed."""
    parser = argparse.ArgumentParser(description="AlexNet in four ONNX forms.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="few runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="caffe-bridge-alexnet-") as folder:
        paths, worst = build(Path(folder))
        result = compare(
            list(paths.values()), batch=args.batch, threads=args.threads,
            schedule=QUICK if args.quick else SCHEDULE,
        )  # fmt: skip
        profiles = profile_models(paths, args.threads, args.batch, 3 if args.quick else 10)
    times = dict(zip(paths, (model.stats.median_ms for model in result.models), strict=True))
    share = times["ort-cpu"] / times["operators"]
    gain = times["ort-cpu"] / times["low rank"]
    facts: dict[str, Any] = {
        "share_of_operators": share,
        "most_of_operators": MOST_OF_OPERATORS,
        "low_rank_speed_up": gain,
        "least_speed_up": LEAST_SPEED_UP,
        "ranks": RANKS,
        "differences": worst,
        "runtime_ms": {name: profile.runtime for name, profile in profiles.items()},
    }
    lines = [
        to_markdown(result), "",
        f"* ort-cpu takes {share:.3f} of the time with LRN operators (at most {MOST_OF_OPERATORS})",
        f"* low rank is {gain:.2f} times as fast as ort-cpu (at least {LEAST_SPEED_UP})",
        *(f"* {name}: largest relative difference {value:.1e}" for name, value in worst.items()),
        *(f"* {name}: " + (", ".join(f"{op} {ms:.2f} ms" for op, ms in profile.runtime.items())
                           or "no reorders") for name, profile in profiles.items()),
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    print(text)
    if args.json:
        args.json.write_text(
            json.dumps(facts | json.loads(to_json(result)), indent=2) + "\n", encoding="utf-8"
        )
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    return int(share > MOST_OF_OPERATORS or gain < LEAST_SPEED_UP)


if __name__ == "__main__":
    sys.exit(main())
