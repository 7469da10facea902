"""``caffe-bridge reproduce``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from caffe_bridge.cli.common import verb
from caffe_bridge.cli.progress import training_bar

#: Experiment -> folder of its recipe inside the recipes' folder.
RECIPES = {
    "lenet": "lenet", "convnet": "cifar10_full", "resnet20": "cifar10_resnet20",
    "alexnet-speed": "alexnet",
}  # fmt: skip


@verb(
    """caffe-bridge reproduce lenet runs/lenet --data data
    caffe-bridge reproduce lenet runs/lenet --report-only"""
)
@click.argument("name", type=click.Choice(list(RECIPES)))
@click.argument("folder", default="")
@click.option("--data", default="data", show_default=True,
              help="Folder of the data bases that 'caffe-bridge dataset' made.")  # fmt: skip
@click.option("--weights", default="", help="Trained baseline, instead of training one a seed.")
@click.option("--recipes", default="solvers", show_default=True,
              help="Folder of the recipes, where experiment.json files lie.")  # fmt: skip
@click.option("--scale", default=1.0, show_default=True, help="Factor on all iteration counts.")
@click.option("--seeds", type=int, default=None, help="How many of the seeds; all by default.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda[:N], for training.")
@click.option("--quick", is_flag=True, help="Time only briefly.")
@click.option("--report-only", is_flag=True, help="Rebuild the report from FOLDER/results.json.")
def command(
    name: str, folder: str, data: str, weights: str, recipes: str, scale: float,
    seeds: int | None, device: str, quick: bool, report_only: bool,
) -> None:  # fmt: skip
    """Reproduce an experiment of the paper in FOLDER (reproduce/NAME by default).

    Baseline, force over a sweep of strengths, ranks, decomposition, fine-tuning, ONNX, timing and
    a report. Started again, it does only what is not done yet or has changed.
    """
    from caffe_bridge.cli.runtime import check_device
    from caffe_bridge.errors import DataError
    from caffe_bridge.experiment.report import RESULTS, load_results, write_report
    from caffe_bridge.experiment.run import reproduce
    from caffe_bridge.experiment.spec import FILE, load_experiment

    place = Path(folder or f"reproduce/{name}")
    console = Console(highlight=False, markup=False)
    if report_only:
        made = write_report(place, load_results(place / RESULTS))
        console.print(f"report: {', '.join(map(str, made))}", soft_wrap=True)
        return
    check_device(device)
    experiment = load_experiment(Path(recipes) / RECIPES[name] / FILE).scaled(scale, seeds)
    if not Path(data).is_dir():
        raise DataError(f"--data {data}: no such folder; make it with 'caffe-bridge dataset'.")
    with training_bar(console) as (bar, progress):
        made = reproduce(
            experiment, place, Path(data), weights=weights, device=device, quick=quick,
            say=lambda text: bar.console.print(text, soft_wrap=True), progress=progress,
        )  # fmt: skip
    console.print(f"report: {', '.join(map(str, made))}", soft_wrap=True)
